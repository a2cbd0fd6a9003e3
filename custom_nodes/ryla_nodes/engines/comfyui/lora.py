"""Apply a LoRA with ComfyUI's own key maps, and count what matched: ComfyUI itself only logs it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...loras import check, keys, weights
from ...loras.check import LoraResult
from ...models.headers import read_header

# What comfy.lora.load_lora reads for a module beside its adapters' own keys.
_SINGLE_KEYS = (".alpha", ".dora_scale", ".w_norm", ".b_norm", ".diff", ".diff_b", ".set_weight")


def apply(model: Any, clip: Any | None, path: Path, strength: float, clip_strength: float) -> LoraResult:
    """Clones of ``model`` and ``clip`` patched with the file in ``path``, as ``comfy.sd.load_lora_for_models`` does it.

    At strength 0 on both the originals come back (as from core's LoraLoader), with the counts all the same, and so does
    a ``clip`` of which nothing matched: it keeps its encodings. Matrices of
    another size than the weight's count as unmatched: ComfyUI would log an error for each and go on.

    Raises:
        RylaError: ``lora_wrong_size`` when that leaves nothing, and what ``loras.weights.load`` raises.
    """
    import comfy.lora
    import comfy.lora_convert

    from .patcher import in_place

    converted = comfy.lora_convert.convert_lora(weights.load(path))
    key_map: dict[str, Any] = comfy.lora.model_lora_keys_unet(model.model, {})
    patched_weights = model.model.state_dict()
    if clip is not None:
        key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, key_map)
        patched_weights |= clip.cond_stage_model.state_dict()
    misfits = _misfits(converted, key_map, patched_weights)
    key_map = {name: target for name, target in key_map.items() if name not in misfits}
    patches = comfy.lora.load_lora(converted, key_map, log_missing=False)

    patched_model = in_place(model)
    matched_model = len(patched_model.add_patches(patches, strength))
    patched_clip, matched_clip = clip, 0
    if clip is not None:
        patched_clip = clip.clone()
        patched_clip.patcher = in_place(patched_clip.patcher)
        matched_clip = len(patched_clip.add_patches(patches, clip_strength))
        if not matched_clip:
            patched_clip = clip
    if misfits and not matched_model + matched_clip:
        raise check.wrong_size(path, misfits[0])
    metadata = read_header(path).metadata
    for patcher in (patched_model, getattr(patched_clip, "patcher", None)):
        if metadata and patcher is not None:
            patcher.set_attachments("lora_metadata", metadata)
    if strength == 0 and clip_strength == 0:
        patched_model, patched_clip = model, clip
    unmatched = tuple(sorted(set(converted) - _used(converted, key_map, patches.values())))
    return LoraResult(patched_model, patched_clip, matched_model, matched_clip, unmatched)


def _misfits(tensors: Mapping[str, Any], key_map: Mapping[str, Any], model_weights: Mapping[str, Any]) -> list[str]:
    """The modules of the file whose product has another number of elements than the weight that they are for."""
    modules = keys.of_weights(tensors)
    sizes = {name: module.elements for name, module in modules.items() if module.elements is not None}
    return [
        name
        for name, size in sizes.items()
        if name in key_map and size != _elements(model_weights, key_map[name], default=size)
    ]


def _elements(model_weights: Mapping[str, Any], target: Any, default: int) -> int:
    """Elements of the weight, or of the slice of it, that an entry of a key map stands for."""
    key, part = (target, None) if isinstance(target, str) else (target[0], target[1])
    weight = model_weights.get(key)
    if weight is None or not weight.dtype.is_floating_point:  # A quantised weight may be packed.
        return default
    shape = list(weight.shape)
    if part is not None:
        dimension, _, length = part
        shape[dimension] = length
    return math.prod(shape)


def _used(tensors: Mapping[str, Any], key_map: Iterable[str], patches: Iterable[Any]) -> set[str]:
    """The keys of the file that went into a patch."""
    used = {f"{module}{suffix}" for module in key_map for suffix in _SINGLE_KEYS} & tensors.keys()
    for patch in patches:
        used |= getattr(patch, "loaded_keys", set())
    return used
