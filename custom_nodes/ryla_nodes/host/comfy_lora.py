"""Apply a LoRA with ComfyUI's own key maps, and count what matched: ComfyUI itself only logs it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import RylaError
from ..lora import weights
from ..models.headers import read_header
from .protocol import LoraResult

_CACHED_FILES = 4
# What comfy.lora.load_lora reads for a module beside its adapters' own keys.
_SINGLE_KEYS = (".alpha", ".dora_scale", ".w_norm", ".b_norm", ".diff", ".diff_b", ".set_weight")

_Key = tuple[Path, int, int]
_cache: OrderedDict[_Key, tuple[dict[str, Any], Mapping[str, str]]] = OrderedDict()


def apply(model: Any, clip: Any | None, path: Path, strength: float, clip_strength: float) -> LoraResult:
    """Clones of ``model`` and ``clip`` patched with the file in ``path``, as ``comfy.sd.load_lora_for_models`` does it.

    At strength 0 on both the originals come back (as from core's LoraLoader), with the counts all the same.
    """
    import comfy.lora
    import comfy.lora_convert

    tensors, metadata = _load(path)
    key_map: dict[str, Any] = comfy.lora.model_lora_keys_unet(model.model, {})
    if clip is not None:
        key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, key_map)
    converted = comfy.lora_convert.convert_lora(tensors)
    patches = comfy.lora.load_lora(converted, key_map, log_missing=False)

    patched_model = model.clone()
    matched_model = len(patched_model.add_patches(patches, strength))
    patched_clip, matched_clip = clip, 0
    if clip is not None:
        patched_clip = clip.clone()
        matched_clip = len(patched_clip.add_patches(patches, clip_strength))
    for patcher in (patched_model, getattr(patched_clip, "patcher", None)):
        if metadata and patcher is not None:
            patcher.set_attachments("lora_metadata", metadata)
    if strength == 0 and clip_strength == 0:
        patched_model, patched_clip = model, clip
    unmatched = tuple(sorted(set(converted) - _used(converted, key_map, patches.values())))
    return LoraResult(patched_model, patched_clip, matched_model, matched_clip, unmatched)


def _used(tensors: Mapping[str, Any], key_map: Iterable[str], patches: Iterable[Any]) -> set[str]:
    """The keys of the file that went into a patch."""
    used = {f"{module}{suffix}" for module in key_map for suffix in _SINGLE_KEYS} & tensors.keys()
    for patch in patches:
        used |= getattr(patch, "loaded_keys", set())
    return used


def _load(path: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The tensors and metadata of ``path``, kept for the next call until the file changes."""
    key = _file_key(path)
    if key not in _cache:
        _cache[key] = weights.load(path), read_header(path).metadata
    _cache.move_to_end(key)
    while len(_cache) > _CACHED_FILES:
        _cache.popitem(last=False)
    return _cache[key]


def _file_key(path: Path) -> _Key:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise RylaError("lora_vanished", f"{path} was deleted after it had been found.", path=path) from error
    return path, status.st_mtime_ns, status.st_size
