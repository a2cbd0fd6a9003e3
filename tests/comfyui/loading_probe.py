"""Run by a ComfyUI's own Python: FLUX.1 read straight to the device beside core's own reading. Prints one JSON line.

A CPU stands in for the card. ``python loading_probe.py COMFYUI MODELS``, where MODELS has the files of ``tiny_flux``, a
checkpoint of them all, and the shipped SDXL.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

COMFYUI, MODELS = map(Path, sys.argv[1:])
sys.argv = ["main.py", "--cpu", "--bf16-unet"]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(COMFYUI), str(HERE.parents[1] / "custom_nodes"), str(HERE / "packs")]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as management  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402, F401 - tells our package that it is inside ComfyUI
import ryla_test_small_sdxl  # noqa: E402, F401 - this ComfyUI then loads small models
import ryla_test_small_shapes  # noqa: E402, F401
import torch  # noqa: E402
from ryla_nodes.engines.comfyui import loading  # noqa: E402
from ryla_nodes.engines.comfyui.engine import ComfyUIEngine  # noqa: E402
from ryla_nodes.engines.loading.reader import Reading  # noqa: E402
from ryla_nodes.models.flux_files import FluxFiles  # noqa: E402

CPU = torch.device("cpu")
# No file has it, and core leaves it as it finds the memory.
UNSET = "clip_l.transformer.text_projection.weight"
engine = ComfyUIEngine()
SPLIT = FluxFiles(
    MODELS / "diffusion_models/flux1-dev.safetensors",
    MODELS / "text_encoders/clip_l.safetensors",
    MODELS / "text_encoders/t5xxl_fp16.safetensors",
    MODELS / "vae/ae.safetensors",
)
WHOLE = FluxFiles(MODELS / "checkpoints/all-in-one.safetensors")
original = Reading.tensors
read: dict[int, str] = {}


def noting(self, check=lambda: None):  # type: ignore[no-untyped-def]
    found = original(self, check)
    read.update({tensor.data_ptr(): name for name, tensor in found.items()})
    return found


Reading.tensors = noting  # type: ignore[method-assign]


def weights(loaded):  # type: ignore[no-untyped-def]
    model, clip, vae = loaded
    parts = (model.model, clip.cond_stage_model, vae.first_stage_model)
    return [part.state_dict() for part in parts]


def differences(one, other) -> list[str]:  # type: ignore[no-untyped-def]
    def raw(tensor: torch.Tensor) -> object:
        return tensor.dtype, tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()

    return [
        key
        for a, b in zip(one, other, strict=True)
        for key in a.keys() | b.keys()
        if key != UNSET and (key not in a or key not in b or raw(a[key]) != raw(b[key]))
    ]


def adopted(loaded) -> list[int]:  # type: ignore[no-untyped-def]
    """Per part: how many bytes of it are the very memory that was read into."""
    return [sum(tensor.nbytes for tensor in part.values() if tensor.data_ptr() in read) for part in weights(loaded)]


def look(load: Callable[[], Any]) -> dict[str, object]:
    """What ``load`` gives in both ways, compared."""
    read.clear()
    management.unload_all_models()
    stock = load()
    plainly = not read
    before = comfy.utils.load_torch_file
    with mock.patch.object(loading, "card_for", lambda *paths: CPU):
        ours = load()
    kinds = [type(ours[0]).__name__, type(ours[1].patcher).__name__]
    loaded = {id(model.model) for model in management.loaded_models()}
    return {
        "plainly": plainly,
        "differences": differences(weights(stock), weights(ours)),
        "adopted": adopted(ours),
        "sizes": [sum(tensor.nbytes for tensor in part.values()) for part in weights(ours)],
        "loaded": [id(patcher.model) in loaded for patcher in (ours[0], ours[1].patcher, ours[2].patcher)],
        "restored": comfy.utils.load_torch_file is before,
        "kinds": kinds == [type(stock[0]).__name__, type(stock[1].patcher).__name__],
        "accounted": ours[0].loaded_size() == ours[0].model_size(),
        "unloaded": unloaded(ours[0]),
    }


def unloaded(model) -> bool:  # type: ignore[no-untyped-def]
    """Whether ComfyUI can let go of it."""
    management.unload_all_models()
    return model.loaded_size() == 0 and not management.loaded_models()


def without_memory() -> bool:
    """Whether core reads by itself when the card's memory was taken meanwhile."""
    stock = weights(engine.load_flux(SPLIT, "default"))
    read.clear()
    with (
        mock.patch.object(loading, "card_for", lambda *paths: CPU),
        mock.patch.object(loading.Reader, "_empty", side_effect=management.OOM_EXCEPTION("none left")),
    ):
        ours = weights(engine.load_flux(SPLIT, "default"))
    return not read and not differences(stock, ours)


def interrupted() -> bool:
    """Whether ComfyUI's interrupt ends the reading, and leaves everything as it was."""
    before, threads = comfy.utils.load_torch_file, threading.active_count()
    management.interrupt_current_processing(True)
    with mock.patch.object(loading, "card_for", lambda *paths: CPU):
        try:
            engine.load_flux(SPLIT, "default")
        except management.InterruptProcessingException:
            return comfy.utils.load_torch_file is before and threading.active_count() == threads
    return False


def texts() -> dict[str, object]:
    """What the CLIP keeps: which prompts were encoded, and whether what it gives is what a plain one gives."""
    clip = engine.load_flux(SPLIT, "default")[1]
    encoder, encoded = clip.cond_stage_model, []
    original = encoder.encode_token_weights

    def noting(tokens):  # type: ignore[no-untyped-def]
        encoded.append(1)
        return original(tokens)

    encoder.encode_token_weights = noting

    def encode(clip, prompt):  # type: ignore[no-untyped-def]
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))

    first, again, other = (encode(clip, prompt) for prompt in ("a cat", "a cat", "a (cat:1.3)"))
    once = len(encoded)
    plain = encode(clip.clone(), "a cat")
    after_clone = len(encoded)
    again[0][1]["guidance"] = 1.0
    for number in range(20):
        encode(clip, f"number {number}")
    encode(clip, "a cat")
    return {
        "encoded": [once, after_clone, len(encoded)],
        "same": torch.equal(first[0][0], again[0][0]) and torch.equal(first[0][0], plain[0][0]),
        "apart": not torch.equal(first[0][0], other[0][0]),
        "own_values": "guidance" not in encode(clip, "a cat")[0][1],
        "pooled": torch.equal(first[0][1]["pooled_output"], plain[0][1]["pooled_output"]),
        "kept": len(clip.ryla_kept),
        "clone": type(clip.clone()).__name__,
    }


with torch.inference_mode():
    result = {
        "split": look(lambda: engine.load_flux(SPLIT, "default")),
        "whole": look(lambda: engine.load_flux(WHOLE, "default")),
        "fp8": look(lambda: engine.load_flux(SPLIT, "fp8_e4m3fn")),
        "sdxl": look(lambda: engine.load_checkpoint(MODELS / "checkpoints/ryla-paint-sdxl.safetensors")),
    }
    result["texts"] = texts()
    result |= {"without_memory": without_memory(), "interrupted": interrupted()}  # type: ignore[dict-item]
result["cpu"] = loading.card_for(SPLIT.transformer)  # type: ignore[assignment]
print(json.dumps(result))  # noqa: T201
