"""Apply a LoRA to Flux with ComfyUI's arithmetic.

``W + strength * (alpha / rank) * up @ down``; alpha counts as rank where a file gives none. LyCORIS' other products are
left to ComfyUI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ....errors import RylaError
from ....loras import check, flux_modules, inspect, weights
from ....loras.check import LoraResult
from ....loras.flux_modules import Places
from .flux import FluxModel
from .sampling import Model
from .text import FluxText
from .weights import Patch

# The endings of an (up, down) pair behind a module's name, in the order in which they are looked for.
_PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
)

# LyCORIS' kinds (as ``inspect`` names them) that ComfyUI applies and this engine does not.
_COMFYUI_ONLY = {"loha", "lokr", "oft", "glora", "full", "norm", "dora"}


@dataclass
class Matches:
    """What one LoRA patches in one network; ``modules`` of the file were found, by these ``keys`` of it."""

    patches: list[Patch] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    modules: int = 0


def apply(model: Model, clip: FluxText | None, path: Path, strength: float, clip_strength: float) -> LoraResult:
    """Clones of ``model`` and ``clip`` with the LoRA in ``path``; at strength 0 they have the originals' weights.

    Raises:
        RylaError: ``lora_wrong_size`` when the file names this model's layers and fits none of them,
            ``lora_unsupported`` for another model than Flux and a file of other kinds of products only, and what
            ``loras.weights.load`` raises.
    """
    if not isinstance(model, FluxModel):
        raise RylaError(
            "lora_unsupported", f"The embedded engine applies LoRAs to Flux only; this MODEL is {model.family}."
        )
    tensors = weights.load(path)
    shape = model.transformer.shape
    places = flux_modules.transformer(shape.double_blocks, shape.single_blocks, shape.hidden)
    in_model = match(tensors, places, model.transformer.network.base, strength)
    in_clip = _match_clip(tensors, clip, clip_strength) if clip else (Matches(), Matches())
    matched_clip = sum(part.modules for part in in_clip)
    if not in_model.modules + matched_clip:
        _refuse(path, tensors, places)
    return LoraResult(
        model=model.patched(in_model.patches),
        clip=clip and clip.patched(*(part.patches for part in in_clip)),
        matched_model=in_model.modules,
        matched_clip=matched_clip,
        unmatched=tuple(sorted(tensors.keys() - in_model.keys - in_clip[0].keys - in_clip[1].keys)),
    )


def _match_clip(tensors: Mapping[str, torch.Tensor], clip: FluxText, strength: float) -> tuple[Matches, Matches]:
    clip_l, t5xxl = clip.clip_l.network.base, clip.t5xxl.network.base
    return (
        match(tensors, flux_modules.clip_l(_linear(clip_l)), clip_l, strength),
        match(tensors, flux_modules.t5xxl(_linear(t5xxl)), t5xxl, strength),
    )


def match(tensors: Mapping[str, torch.Tensor], places: Places, module: nn.Module, strength: float) -> Matches:
    """Pair a file's tensors with a network's weights. At strength 0 they are counted and nothing is patched.

    A module whose DoRA scale the arithmetic would have to know, or whose matrices are of another size, is left out.
    """
    found, parameters = Matches(), dict(module.named_parameters())
    for name, place in places.items():
        pair = next(((up, down) for up, down in _PAIRS if name + up in tensors and name + down in tensors), None)
        if pair is None or f"{name}.dora_scale" in tensors:
            continue
        up, down = (tensors[name + ending] for ending in pair)
        alpha = tensors.get(f"{name}.alpha")
        scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
        rows = slice(place.start, place.stop)
        patch = Patch(f"{place.module}.weight", place.ordered(up), down, strength * scale, rows)
        if not _fits(patch, parameters.get(patch.parameter)):
            continue
        found.modules += 1
        found.keys |= {name + ending for ending in pair} | ({f"{name}.alpha"} & tensors.keys())
        found.patches += [patch] if strength != 0 else []
    return found


def _refuse(path: Path, tensors: Mapping[str, torch.Tensor], places: Places) -> None:
    """Say why nothing matched, where more can be said than that."""
    info = inspect.inspect(path)
    kinds = sorted(_COMFYUI_ONLY & set(info.algorithms))
    if kinds or info.format == "bfl-control":
        what = f"a {info.format} file" + (f" of the kind {'+'.join(kinds)}" if kinds else "")
        line = f"{path.name} is {what}, which ComfyUI applies; the embedded engine applies plain LoRA pairs only."
        raise RylaError("lora_unsupported", line, path=path)
    named = next((name for name in places if any(name + up in tensors for up, _ in _PAIRS)), None)
    if named is not None:
        raise check.wrong_size(path, named)


def _fits(patch: Patch, weight: torch.Tensor | None) -> bool:
    """Whether the network has the weight, and the pair's product the size of the rows that it is added to."""
    if weight is None or patch.up[0].numel() != len(patch.down):
        return False
    return (len(patch.up), patch.down[0].numel()) == tuple(weight[patch.rows].shape)


def _linear(module: nn.Module) -> Iterator[str]:
    return (name for name, child in module.named_modules() if isinstance(child, nn.Linear))
