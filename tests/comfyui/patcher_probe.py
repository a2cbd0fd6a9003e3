"""Run by a ComfyUI's own Python: LoRAs changed in place beside core's ModelPatcher. Prints one JSON line.

A CPU stands in for the card: what is looked at is which weights there are after each change, and that none of them
takes the way through the offload device. ``python patcher_probe.py COMFYUI``.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

COMFYUI = Path(sys.argv[1])
sys.argv = ["main.py", "--cpu"]
sys.path[:0] = [str(COMFYUI), str(Path(__file__).resolve().parents[2] / "custom_nodes")]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.lora  # noqa: E402
import comfy.ops  # noqa: E402
import folder_paths  # noqa: E402, F401 - tells our package that it is inside ComfyUI
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from ryla_nodes.engines.comfyui import patcher  # noqa: E402

CPU, WIDTH, RANK, CHANGES = torch.device("cpu"), 48, 4, 1000


class Model(torch.nn.Module):
    """Three layers, in bfloat16 and in an 8-bit float, of which a LoRA patches some."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, dtype in (("a", torch.bfloat16), ("b", torch.float8_e4m3fn), ("c", torch.float32)):
            layer = comfy.ops.manual_cast.Linear(WIDTH, WIDTH, dtype=torch.float32)
            layer.weight = torch.nn.Parameter(
                torch.randn(WIDTH, WIDTH, generator=generator).to(dtype), requires_grad=False
            )
            layer.bias = torch.nn.Parameter(torch.zeros(WIDTH, dtype=torch.float32), requires_grad=False)
            setattr(self, name, layer)
        self.moves = 0

    def to(self, *arguments, **options):  # type: ignore[no-untyped-def]
        self.moves += 1
        return super().to(*arguments, **options)

    def memory_required(self, *_arguments, **_options):  # type: ignore[no-untyped-def]
        return 0


def lora(seed: int, layers: str) -> dict:  # type: ignore[type-arg]
    generator = torch.Generator().manual_seed(seed)
    tensors, names = {}, {}
    for layer in layers:
        tensors[f"{layer}.lora_up.weight"] = torch.randn(WIDTH, RANK, generator=generator)
        tensors[f"{layer}.lora_down.weight"] = torch.randn(RANK, WIDTH, generator=generator)
        tensors[f"{layer}.alpha"] = torch.tensor(float(RANK))
        names[layer] = f"{layer}.weight"
    return comfy.lora.load_lora(tensors, names)


def fresh() -> ModelPatcher:
    return ModelPatcher(Model(), CPU, CPU)


def weights(model: ModelPatcher) -> dict:  # type: ignore[type-arg]
    return {key: value.clone() for key, value in model.model.state_dict().items()}


def same(one: dict, other: dict) -> bool:  # type: ignore[type-arg]
    return all(torch.equal(value.float(), other[key].float()) for key, value in one.items())


def load(model: ModelPatcher) -> None:
    model.partially_load(CPU, 1e32)


def by_core(patches: list) -> dict:  # type: ignore[type-arg]
    """The weights that core gives for these patches on a model that knows nothing else."""
    model = fresh()
    for each in patches:
        model.add_patches(each, 0.7)
    load(model)
    return weights(model)


def main() -> None:
    patcher.on_card = lambda device: True
    patcher.management.get_free_memory = lambda *_: 1 << 40
    sets = {
        "none": [],
        "a": [lora(1, "ab")],
        "b": [lora(2, "bc")],
        "both": [lora(1, "ab"), lora(2, "bc")],
    }
    expected = {name: by_core(patches) for name, patches in sets.items()}
    base = patcher.in_place(fresh())
    clones = {}
    for name, patches in sets.items():
        clones[name] = base.clone()
        for each in patches:
            clones[name].add_patches(each, 0.7)
    load(clones["none"])
    base.model.moves = 0
    order = random.Random(0).choices(list(sets), k=CHANGES)
    wrong = 0
    for name in [*order, "none"]:
        load(clones[name])
        wrong += not same(weights(base), expected[name])
    result = {
        "wrong": wrong,
        "moves": base.model.moves,
        "kept": len(base.backup),
        "kinds": sorted({type(each).__name__ for each in clones.values()}),
    }
    load(clones["both"])
    plain = ModelPatcher(base.model, CPU, CPU)
    plain.backup = base.backup
    load(plain)  # A patcher of core's on the same model takes over.
    result["core_takes_over"] = same(weights(plain), expected["none"])
    base.unpatch_model(CPU)
    result["unloaded"] = same(weights(base), expected["none"]) and not base.backup
    sys.stdout.write(json.dumps(result) + "\n")


main()
