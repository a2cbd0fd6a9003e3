"""Full-size FLUX.1 Dev in a real ComfyUI: `speed` off, exact and fast beside stock, on one GPU.

    python benchmarks/gpu_speed.py --comfyui /path/to/ComfyUI --weights make [--row step --row warm ...]

Rows, each of which runs alone:
    workflow   `flux-dev` as `ryla run` binds it, in all modes in turn, beside core's nodes with core's PNG
    step   one step of the transformer in ComfyUI's own Python: milliseconds, compile time, error of the velocity
    variants   the same of `fast` with other options of the compiler
    vae    the VAE's decoder: as it is, with compiled norms, in channels_last, compiled whole
    warm   pictures of all modes in turn in one ComfyUI: seconds, ms a step, error of the latent, PSNR
    first  the first picture of a process with an empty and with a filled cache, then another size; memory
    lora   another LoRA for each picture, in all modes
    embedded   the sampling of a picture on the embedded engine, in all modes

Tables are printed; with the environment variable OUT set, speed.json and ComfyUI's logs are left in that folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests"))

import gpu_flux  # noqa: E402
import gpu_lora  # noqa: E402
from comfyui.process import Boot, ComfyUI, Install  # noqa: E402 - the tests' way to start a ComfyUI
from device_memory import device_memory_gb  # noqa: E402
from gpu_flux import _execution_seconds, submit  # noqa: E402
from gpubench import Row, Rows, add_picture, models_of, parser_of, run, wait_for_packages  # noqa: E402

MODES = ("off", "exact", "fast")
ROUNDS = 4


class Bench:
    """Options, the models, and what was found so far."""

    def __init__(self, options: argparse.Namespace, models: Path) -> None:
        self.options, self.models = options, models
        self.out = Path(os.environ["OUT"]) if "OUT" in os.environ else None
        self.volume = options.work / "volume"
        self.rows = Rows("speed")

    def add(self, row: Row) -> None:
        self.rows.add(row)

    def start(self, name: str) -> ComfyUI:
        """A ComfyUI whose volume has the LoRAs and keeps compiled code."""
        environ = {"RYLA_VOLUME": str(self.volume)}
        environ |= {key: os.environ[key] for key in ("PYTHONPATH", "CC", "RYLA_AHEAD") if key in os.environ}
        arguments = ("--cache-lru", "100", *self.options.engine_argument)
        boot = Boot(models=(self.models,), packs=tuple(self.options.pack), environ=tuple(environ.items()),
                    arguments=arguments, cpu=self.options.cpu)  # fmt: skip
        base = self.options.work / f"{name}-{time.monotonic_ns()}"
        return ComfyUI.start(Install(self.options.comfyui.resolve(), Path(self.options.python)), base, boot)

    def stop(self, engine: ComfyUI, name: str) -> None:
        if self.out:
            (self.out / f"{name}.log").write_text(engine.log)
        engine.stop()
        shutil.rmtree(engine.base / "output", ignore_errors=True)


def graph(options: argparse.Namespace, mode: str, seed: int, lora: str = "", **changes: Any) -> dict[str, Any]:
    """Text to a PNG and a latent; ``mode`` is ``stock`` (core's loaders) or one of ``speed``."""
    given = {"size": options.size, "steps": options.steps} | {key: changes[key] for key in ("steps",) if key in changes}
    made = gpu_lora.graph(mode != "stock", lora, seed, given["size"], given["steps"])
    if mode != "stock":
        fields = {"model": made["sample"]["inputs"]["model"], "mode": mode}
        made["speed"] = {"class_type": "RYLA_FluxSpeed", "inputs": fields}
        made["sample"]["inputs"]["model"] = ["speed", 0]
    for side in ("width", "height"):
        made["latent"]["inputs"][side] = changes.get(side, options.size)
    made["keep"] = {"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "speed"}}
    return made


def picture(engine: ComfyUI, made: dict[str, Any]) -> tuple[float, Any, Any, str]:
    """Seconds of the execution, the pixels, the latent, and what the speed node said."""
    import numpy as np
    from PIL import Image
    from safetensors.torch import load_file

    entry = submit(engine, made)
    outputs = entry["outputs"]
    pixels = np.asarray(Image.open(engine.files(outputs, "save")[0]), dtype=np.float32)
    kept = outputs["keep"]["latents"][0]
    latent = load_file(engine.output / kept["subfolder"] / kept["filename"])["latent_tensor"].float()
    said = outputs.get("speed", {}).get("text", [""])[0]
    return _execution_seconds(entry), pixels, latent, said


def row_step(bench: Bench) -> None:
    """See flux_step.py."""
    _script(bench, "flux_step.py", "--kinds", *([] if bench.options.cpu else ["--profile"]))


def row_variants(bench: Bench) -> None:
    """See flux_step.py."""
    _script(bench, "flux_step.py", "--modes", "off", "--variants")


def row_vae(bench: Bench) -> None:
    """See vae_step.py."""
    _script(bench, "vae_step.py", "--vae", str(bench.models / "vae/ae.safetensors"))


def _script(bench: Bench, name: str, *arguments: str) -> None:
    """The rows that a script in ComfyUI's own Python finds."""
    found = bench.options.work / f"{name}.json"
    command = [bench.options.python, str(Path(__file__).with_name(name)), str(bench.options.comfyui)]
    extra = ["--cpu"] if bench.options.cpu else []
    environ = {**os.environ, "RYLA_VOLUME": str(bench.options.work / "volume-step")}
    subprocess.run(
        [*command, "--json", str(found), *arguments, *extra], check=True, env=environ, stdout=subprocess.DEVNULL
    )
    for row in json.loads(found.read_text()):
        bench.add(row)


def row_workflow(bench: Bench) -> None:
    """What users run beside what they would run without us; the first round compiles and loads and does not count."""
    engine = bench.start("workflow")
    graphs: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {}
    try:
        asked = gpu_flux.run_arguments(bench.options, 0)
        for mode in MODES:
            graphs[mode] = gpu_flux.ryla(*asked, "--speed", mode, "--server", engine.url, "--dry-run")
        graphs = {"stock": gpu_flux.with_core_loaders(graphs["off"]), **graphs}
        for number in range(ROUNDS):
            for side, made in graphs.items():
                entry = submit(engine, gpu_flux.seeded(made, number + 1))
                seconds.setdefault(side, []).append(round(_execution_seconds(entry), 3))
    finally:
        bench.stop(engine, "workflow")
    stock = statistics.median(seconds["stock"][1:])
    for side, found in seconds.items():
        warm = statistics.median(found[1:])
        bench.add({"row": "workflow", "mode": side, "first_s": found[0], "warm_s": found[1:],
                   "of_stock": round(warm / stock, 3)})  # fmt: skip


def row_warm(bench: Bench) -> None:
    """Stock and all modes in turn; the first round compiles and loads and does not count."""
    sides = ("stock", *MODES)
    engine = bench.start("warm")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    short, errors, decibels, said = {}, {}, {}, {}
    try:
        for number in range(ROUNDS):
            made = {side: picture(engine, graph(bench.options, side, number)) for side in sides}
            for side, (took, _, _, line) in made.items():
                seconds[side].append(round(took, 3))
                said[side] = line
        for side, (_, pixels, latent, _) in made.items():
            errors[side] = float((latent - made["off"][2]).norm() / made["off"][2].norm())
            decibels[side] = psnr(pixels, made["off"][1])
        for side in sides:
            few = [picture(engine, graph(bench.options, side, seed, steps=4))[0] for seed in (50, 51)]
            short[side] = min(few)
        memory = device_memory_gb()
    finally:
        bench.stop(engine, "warm")
    stock = statistics.median(seconds["stock"][1:])
    for side in sides:
        warm = statistics.median(seconds[side][1:])
        bench.add({
            "row": "warm", "mode": side, "first_s": seconds[side][0], "warm_s": seconds[side][1:],
            "of_stock": round(warm / stock, 3),
            "ms_a_step": round((warm - short[side]) / (bench.options.steps - 4) * 1000, 1),
            "latent_error": round(errors[side], 5), "psnr_db": round(decibels[side], 2), "said": said[side],
            "device_gb_all": memory,
        })  # fmt: skip


def psnr(one: Any, other: Any) -> float:
    """In dB, of pictures in 0..255; 99 for equal ones."""
    import numpy as np

    off = float(np.mean((one - other) ** 2))
    return 10 * math.log10(255**2 / off) if off else 99.0


def row_first(bench: Bench) -> None:
    """Each mode in processes of its own: off, then exact and fast with the cache empty and filled."""
    shutil.rmtree(bench.volume / "cache", ignore_errors=True)
    for name, mode in (("off", "off"), ("exact empty", "exact"), ("exact filled", "exact"), ("fast empty", "fast"),
                       ("fast filled", "fast")):  # fmt: skip
        began = time.perf_counter()
        engine = bench.start(name.replace(" ", "-"))
        start = time.perf_counter() - began
        try:
            first, *_ = picture(engine, graph(bench.options, mode, 1))
            warm, *_ = picture(engine, graph(bench.options, mode, 2))
            other = [picture(engine, graph(bench.options, mode, 3 + n, width=832, height=1216))[0] for n in range(2)]
            again, *_ = picture(engine, graph(bench.options, mode, 9))
            memory = device_memory_gb()
            if name.endswith("empty") and not bench.options.cpu:
                wait_for_packages(bench.volume, [mode], partial(getattr, engine, "log"))
        finally:
            bench.stop(engine, name.replace(" ", "-"))
        bench.add({
            "row": "first", "name": name, "start_s": round(start, 2), "first_s": round(first, 2),
            "warm_s": round(warm, 2), "other_size_first_s": round(other[0], 2), "other_size_warm_s": round(other[1], 2),
            "back_s": round(again, 2), "device_gb": memory, "cache_mb": _megabytes(bench.volume / "cache"),
        })  # fmt: skip


def _megabytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 1)


def row_lora(bench: Bench) -> None:
    """No LoRA, then two in turn, for off and fast; the pictures of a LoRA differ from those without."""
    if not (bench.volume / "loras/b.safetensors").exists():
        gpu_lora.write_loras(bench.volume / "loras")
    engine = bench.start("lora")
    try:
        for mode in ("off", "exact", "fast"):
            order = ("", "a", "b", "a", "b", "a+b", "")
            made = [
                picture(engine, _lora_graph(bench.options, mode, number, lora)) for number, lora in enumerate(order)
            ]
            seconds = [round(one[0], 3) for one in made]
            again = bool((made[0][2] == made[-1][2]).all())
            bench.add({"row": "lora", "mode": mode, "order": order, "seconds": seconds, "back_is_equal": again,
                       "device_gb": device_memory_gb()})  # fmt: skip
    finally:
        bench.stop(engine, "lora")


def _lora_graph(options: argparse.Namespace, mode: str, number: int, lora: str) -> dict[str, Any]:
    """The picture of seed 7; for another ``number`` the engine makes it anew, even with what it has kept."""
    made = graph(options, mode, 7, lora)
    made["lora"]["inputs"]["trigger_word"] = f"again {number}"
    return made


def row_embedded(bench: Bench) -> None:
    """See embedded_speed.py."""
    found = bench.options.work / "embedded.json"
    transformer = bench.models / "diffusion_models/flux1-dev.safetensors"
    command = [sys.executable, str(Path(__file__).with_name("embedded_speed.py")), str(transformer)]
    environ = {**os.environ, "RYLA_VOLUME": str(bench.options.work / "volume-embedded")}
    subprocess.run([*command, "--json", str(found)], check=True, env=environ, stdout=subprocess.DEVNULL)
    for row in json.loads(found.read_text()):
        bench.add(row)


ROWS: dict[str, Callable[[Bench], None]] = {
    "workflow": row_workflow,
    "step": row_step,
    "variants": row_variants,
    "vae": row_vae,
    "warm": row_warm,
    "first": row_first,
    "lora": row_lora,
    "embedded": row_embedded,
}


def main() -> None:
    parser = parser_of(__doc__)
    add_picture(parser)
    parser.add_argument("--row", action="append", choices=list(ROWS), help="repeatable; all when left out")
    options = parser.parse_args()
    wanted = options.row or list(ROWS)
    bench = Bench(options, models_of(options, () if set(wanted) <= {"step", "variants"} else ("flux_weights.py",)))
    run(wanted, {name: partial(row, bench) for name, row in ROWS.items()})
    bench.rows.show()


if __name__ == "__main__":
    main()
