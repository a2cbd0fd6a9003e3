"""Run by a ComfyUI's own Python: FLUX.1 started with its 8-bit weights kept on the volume. Prints one JSON line.

A CPU stands in for the card. ``python kept_probe.py COMFYUI MODELS VOLUME``, where MODELS has the files of
``tiny_flux``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

COMFYUI, MODELS, VOLUME = map(Path, sys.argv[1:])
sys.argv = ["main.py", "--cpu", "--bf16-unet", "--use-pytorch-cross-attention"]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(COMFYUI), str(HERE.parents[1] / "custom_nodes"), str(HERE / "packs")]
os.environ["RYLA_VOLUME"] = str(VOLUME)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.lora  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402, F401 - tells our package that it is inside ComfyUI
import ryla_test_small_shapes  # noqa: E402, F401 - this ComfyUI then loads small models
import torch  # noqa: E402
from ryla_nodes.engines.comfyui import loading, patcher, speed  # noqa: E402
from ryla_nodes.engines.comfyui.engine import ComfyUIEngine  # noqa: E402
from ryla_nodes.engines.loading.reader import Reader  # noqa: E402
from ryla_nodes.engines.loading.unread import UnreadWeight  # noqa: E402
from ryla_nodes.engines.speed import keeping, layers, machine  # noqa: E402
from ryla_nodes.models.flux_files import FluxFiles  # noqa: E402
from ryla_nodes.models.headers import read_header  # noqa: E402

CPU = torch.device("cpu")
TRANSFORMER = MODELS / "diffusion_models/flux1-dev.safetensors"
FILES = FluxFiles(
    TRANSFORMER,
    MODELS / "text_encoders/clip_l.safetensors",
    MODELS / "text_encoders/t5xxl_fp16.safetensors",
    MODELS / "vae/ae.safetensors",
)
LAYER = "single_blocks.2.linear2.weight"
read: list[tuple[str, str]] = []
start = Reader.start


def noting(self, path, names=None, **how):  # type: ignore[no-untyped-def]
    reading = start(self, path, names, **how)
    read.extend((path.name, name) for name in reading.targets)
    return reading


def load() -> Any:
    """A MODEL, as one process after the other would load it."""
    management.unload_all_models()
    read.clear()
    return ComfyUIEngine().load_flux(FILES, "default")[0]


def waiting(model: Any) -> int:
    return sum(isinstance(weight, UnreadWeight) for weight in model.model.parameters())


def matrices_read() -> int:
    wanted = layers.of_file(read_header(TRANSFORMER).tensors)
    return sum(file == TRANSFORMER.name and name in wanted for file, name in read)


def sample(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(1, 12, 128, generator=generator)
    given = [[text, {"pooled_output": torch.randn(1, 128, generator=generator), "guidance": 3.5}]]
    latent = torch.zeros(1, 16, 8, 8)
    noise = torch.randn(latent.shape, generator=generator)
    return comfy.sample.sample(model, noise, 2, 1.0, "euler", "simple", given, given, latent, seed=1)


def fast(model: Any) -> Any:
    return speed.accelerate(model, "fast")[0]


def with_lora(model: Any) -> Any:
    rows, columns = model.model.diffusion_model.get_parameter(LAYER).shape
    generator = torch.Generator().manual_seed(5)
    tensors = {
        "x.lora_up.weight": torch.randn(rows, 4, generator=generator) * 0.2,
        "x.lora_down.weight": torch.randn(4, columns, generator=generator) * 0.2,
    }
    clone = model.clone()
    assert len(clone.add_patches(comfy.lora.load_lora(tensors, {"x": f"diffusion_model.{LAYER}"}), 1.0)) == 1
    return clone


def saved(model: Any) -> dict[str, torch.Tensor]:
    target = VOLUME / "saved.safetensors"
    comfy.utils.save_torch_file(model.model.diffusion_model.state_dict(), str(target))
    return dict(comfy.utils.load_torch_file(str(target)))


def main() -> dict[str, Any]:
    Reader.start = noting  # type: ignore[method-assign, assignment]
    loading.card_for = lambda *paths: CPU  # type: ignore[assignment]
    patcher.on_card = lambda device: True
    management.get_free_memory = lambda device=None, torch_free_too=False: (1 << 40,) * 2 if torch_free_too else 1 << 40
    machine.refusal = lambda mode, device: None
    compile_ = torch.compile
    torch.compile = lambda function: compile_(function, backend=lambda graph, inputs: graph.forward)
    result: dict[str, Any] = {}

    first = load()
    truth = {name: value.clone() for name, value in first.model.diffusion_model.state_dict().items()}
    plain, lora = sample(first), sample(with_lora(first))
    exact = sample(speed.accelerate(first, "exact")[0])
    eight = sample(fast(first))
    eight_lora = sample(fast(with_lora(first)))
    for thread in threading.enumerate():
        if thread.name == "ryla-keep":
            thread.join(60)
    result["kept"] = keeping.find(VOLUME, TRANSFORMER, CPU) is not None
    result["size"] = first.model_size()

    second = load()
    result["put_off"] = waiting(second)
    steps: list[int] = []
    second.model.diffusion_model.register_forward_pre_hook(lambda *_: steps.append(1))
    result["fast"] = bool(torch.equal(sample(fast(second)), eight))
    result["steps"] = [len(steps)]
    result["after_fast"] = [waiting(second), matrices_read()]
    result["accounted"] = second.loaded_size() == second.model_size() == result["size"]
    result["fast_again"] = bool(torch.equal(sample(fast(second)), eight)) and waiting(second) == result["put_off"]
    result["steps"].append(len(steps))
    management.unload_all_models()
    result["unloaded"] = [waiting(second), second.loaded_size(), not management.loaded_models(), len(speed._kept)]
    result["after_unload"] = bool(torch.equal(sample(fast(second)), eight)) and matrices_read() == 0
    result["plain"] = bool(torch.equal(sample(second), plain))
    result["after_plain"] = [waiting(second), matrices_read()]
    result["back"] = bool(torch.equal(sample(fast(second)), eight))

    result["exact"] = bool(torch.equal(sample(speed.accelerate(load(), "exact")[0]), exact))
    result["lora"] = bool(torch.equal(sample(with_lora(load())), lora))
    third = load()
    result["lora_fast"] = bool(torch.equal(sample(fast(with_lora(third))), eight_lora))
    result["lora_gone"] = bool(torch.equal(sample(fast(third)), eight))
    fourth = load()
    found = saved(fourth)
    result["saved"] = found.keys() == truth.keys() and all(torch.equal(found[name], truth[name]) for name in truth)
    fifth = load()
    hindrance, speed._hindrance = speed._hindrance, lambda base: "the model is only partly on the card"
    result["lowvram"] = [bool(torch.equal(sample(fast(fifth)), plain)), waiting(fifth)]
    speed._hindrance = hindrance
    management.interrupt_current_processing(True)
    sixth = load_interrupted()
    result["interrupted"] = sixth
    return result


def load_interrupted() -> bool:
    try:
        load()
    except management.InterruptProcessingException:
        return True
    return False


with torch.inference_mode():
    sys.stdout.write(json.dumps(main()) + "\n")
