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
from ....loras import check, flux_modules, inspect, keys, weights
from ....loras.check import LoraResult
from ....loras.flux_modules import Places
from .flux import FluxModel
from .sampling import Model
from .text import FluxText
from .weights import Patch

# LyCORIS' kinds (as ``inspect`` names them) that ComfyUI applies and this engine does not.
_COMFYUI_ONLY = {"loha", "lokr", "oft", "boft", "glora", "full", "norm", "dora"}
# What a pair's module may be, besides: ComfyUI applies AdaLoRA's pairs without its factors.
_PLAIN = {"lora", "locon", "adalora"}


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
    if keys.is_whole_xlabs(tensors):
        places = {**places, **flux_modules.xlabs(shape.double_blocks, shape.single_blocks, shape.hidden)}
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
    found, parameters, written = Matches(), dict(module.named_parameters()), keys.of_weights(tensors)
    for name, place in places.items():
        pair = _pair(written.get(name))
        if pair is None:
            continue
        up, down = (tensors[key] for key in pair)
        alpha = tensors.get(f"{name}.alpha")
        scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
        rows = slice(place.start, place.stop)
        patch = Patch(f"{place.module}.weight", place.ordered(up), down, strength * scale, rows)
        if not _fits(patch, parameters.get(patch.parameter)):
            continue
        found.modules += 1
        found.keys |= {*pair} | ({f"{name}.alpha"} & tensors.keys())
        found.patches += [patch] if strength != 0 else []
    return found


def _pair(module: keys.Module | None) -> tuple[str, str] | None:
    """The keys of a module's plain pair; None for other products, and for a pair that needs more than its product."""
    if module is None or module.algorithms - _PLAIN or "mid" in module.tensors:
        return None
    return module.pair


def _refuse(path: Path, tensors: Mapping[str, torch.Tensor], places: Places) -> None:
    """Say why nothing matched, where more can be said than that."""
    info = inspect.inspect(path)
    kinds = sorted(_COMFYUI_ONLY & set(info.algorithms))
    if kinds or info.format == "bfl-control":
        what = f"a {info.format} file" + (f" of the kind {'+'.join(kinds)}" if kinds else "")
        elsewhere = f"; in ComfyUI {', and '.join(info.notes)}" if info.notes else ", which ComfyUI applies"
        line = f"{path.name} is {what}{elsewhere}; the embedded engine applies plain LoRA pairs only."
        raise RylaError("lora_unsupported", line, path=path)
    written = keys.of_weights(tensors)
    named = next((name for name in places if name in written and written[name].pair), None)
    if named is not None:
        raise check.wrong_size(path, named)


def _fits(patch: Patch, weight: torch.Tensor | None) -> bool:
    """Whether the network has the weight, and the pair's product the size of the rows that it is added to."""
    if weight is None or patch.up[0].numel() != len(patch.down):
        return False
    return (len(patch.up), patch.down[0].numel()) == tuple(weight[patch.rows].shape)


def _linear(module: nn.Module) -> Iterator[str]:
    return (name for name, child in module.named_modules() if isinstance(child, nn.Linear))
