"""An untrained LoRA for the embedded engine's models: random, but a real file in a real trainer's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ....loras.flux_modules import diffusers_parts
from ....models.headers import Header

if TYPE_CHECKING:
    import torch

    Pair = tuple[str, torch.Tensor, torch.Tensor]  # Module, down [rank, in], up [out, rank].

FORMATS = ("kohya", "diffusers", "ai-toolkit", "comfyui")
RANK = 4
_GAIN = 0.6  # Standard deviation of the change, in those of a weight: plain to see, and still a picture.


def write(path: Path, transformer: Header, style: str, trigger: str, seed: int = 0) -> None:
    """Write a LoRA of rank 4 that patches every attention and MLP layer of ``transformer``.

    Every format holds the same change to the weights, so they give the same picture.

    Args:
        transformer: header of a FLUX.1 transformer in the original key names; it gives the layers and their widths.
        style: one of ``FORMATS``.
        trigger: the trigger word, written where that format's trainer writes it.
    """
    from safetensors.torch import save_file

    tensors = _WRITERS[style](transformer, seed)
    save_file(tensors, path, metadata=_metadata(style, trigger))


def _pairs(transformer: Header, seed: int) -> Iterator[Pair]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    for key, (_, shape) in transformer.tensors.items():
        module, _, kind = key.rpartition(".")
        if (
            kind == "weight"
            and len(shape) == 2
            and module.endswith(("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "linear1", "linear2"))
        ):
            out, into = shape
            down = torch.randn(RANK, into, generator=generator) / into**0.5
            yield module, down, torch.randn(out, RANK, generator=generator) * (_GAIN / RANK**0.5)


def _kohya(transformer: Header, seed: int) -> dict[str, torch.Tensor]:
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for module, down, up in _pairs(transformer, seed):
        name = f"lora_unet_{module.replace('.', '_')}"
        # An alpha of half the rank halves the product, as trainers like to have it.
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up * 2}
        tensors[f"{name}.alpha"] = torch.tensor(RANK / 2)
    return tensors


def _comfyui(transformer: Header, seed: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for module, down, up in _pairs(transformer, seed):
        tensors |= _peft(f"diffusion_model.{module}", down, up)
    return tensors


def _diffusers(transformer: Header, seed: int) -> dict[str, torch.Tensor]:
    """Fused layers come apart: each part has the same down matrix and its own rows of the up matrix."""
    width = transformer.tensors["img_in.weight"][1][0]
    tensors: dict[str, torch.Tensor] = {}
    for module, down, up in _pairs(transformer, seed):
        for name, place in diffusers_parts(module, width).items():
            tensors |= _peft(f"transformer.{name}", down.clone(), place.rows(up).contiguous())
    return tensors


def _peft(name: str, down: torch.Tensor, up: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


_WRITERS: dict[str, Callable[[Header, int], dict[str, torch.Tensor]]] = {
    "kohya": _kohya,
    "diffusers": _diffusers,
    "ai-toolkit": _diffusers,
    "comfyui": _comfyui,
}


def _metadata(style: str, trigger: str) -> dict[str, str]:
    if style == "ai-toolkit":
        frequency = json.dumps({f"1_{trigger}": {trigger: 1}})
        software = json.dumps({"name": "ai-toolkit", "url": "https://github.com/ostris/ai-toolkit"})
        return {"format": "pt", "software": software, "ss_base_model_version": "flux1", "ss_tag_frequency": frequency}
    fields = {"format": "pt", "modelspec.architecture": "flux-1-dev/lora", "modelspec.trigger_phrase": trigger}
    return fields | ({"ss_network_alpha": str(RANK / 2)} if style == "kohya" else {})
