"""Run by a ComfyUI's own Python: blocks compiled ahead for `speed`, then used. Prints one JSON line.

``python ahead_probe.py COMFYUI VOLUME``, twice: the first process makes the packages, the second finds them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

VOLUME = Path(sys.argv[2])
os.environ["RYLA_VOLUME"] = str(VOLUME)
os.environ.pop("RYLA_AHEAD", None)
os.environ["AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL"] = "O0"  # Quicker to make.

import speed_probe as probe  # noqa: E402 - it reads the command line
import torch  # noqa: E402
from ryla_nodes.engines.comfyui import patcher, speed  # noqa: E402
from ryla_nodes.engines.speed import cache, compiler, machine, making  # noqa: E402

MAKE = making._make


def make_but_double_blocks_of_fast(orders: list[bytes]) -> None:
    MAKE(orders[:2] + orders[3:])


def main() -> dict[str, object]:
    patcher.on_card = lambda device: True
    probe.management.get_free_memory = lambda device=None, torch_free_too=False: (
        (1 << 40,) * 2 if torch_free_too else 1 << 40
    )
    machine.refusal = lambda mode, device: None
    cache.name_of = lambda *_: "inductor-both"  # The compiler looks at the processor once a folder.
    making._make = make_but_double_blocks_of_fast
    compiled: list[str] = []
    compiler._compiled = lambda function: compiled.append(function.__name__) or function
    stock = probe.fresh()
    plain = probe.sample(stock)
    exact, fast = (speed.accelerate(stock, mode)[0] for mode in ("exact", "fast"))
    result: dict[str, object] = {"exact": probe.error(probe.sample(exact), plain)}
    result["untouched"] = bool(torch.equal(probe.sample(stock), plain)) and probe.whole(stock)
    if not list(VOLUME.glob("cache/*/*.pt2")):
        probe.sample(fast)
        making.wait()
        return result
    for number in (1, 2):
        wanted = probe.sample(probe.with_lora(stock, number))
        result[f"lora {number}"] = probe.error(probe.sample(probe.with_lora(exact, number)), wanted)
    result["other size"] = probe.error(probe.sample(exact, 16, 30), probe.sample(stock, 16, 30))
    result["batch"] = probe.error(probe.sample(exact, cfg=3.0), probe.sample(stock, cfg=3.0))
    result["compiled_exact"] = sorted(set(compiled))
    result["fast"] = probe.error(probe.sample(fast), plain)
    result["compiled_fast"] = sorted(set(compiled))
    compiled.clear()
    linear = stock.model.diffusion_model.single_blocks[0].linear1
    linear.weight_function = [lambda weight: weight * 1.5]
    linear.comfy_cast_weights = True
    wanted = probe.sample(stock)
    result["patched at each call"] = [probe.error(probe.sample(exact), wanted), len(compiled)]
    result["of the patch"] = probe.error(wanted, plain)
    linear.weight_function, linear.comfy_cast_weights = [], False
    probe.management.unload_all_models()
    result["layers in 8 bits after unloading"] = probe.alive(speed.Fp8Linear)
    result["again"] = probe.error(probe.sample(exact), plain)
    return result


with torch.inference_mode():
    sys.stdout.write(json.dumps(main()) + "\n")
