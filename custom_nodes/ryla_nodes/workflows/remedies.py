"""What to do about a node class or a model file that an engine lacks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from ..files import MODEL_SUFFIXES
from ..models import catalogue
from ..similar import nearest

# ComfyUI's loaders name their file inputs after what lies in the folder.
_FOLDERS = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "lora_name": "loras",
    "control_net_name": "controlnet",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
}


def for_class(class_type: str, meta: Any, known: Iterable[str]) -> tuple[str, str]:
    """The pack that node class ``class_type`` belongs to, in words, and how to get it.

    Args:
        meta: the node's ``_meta``; its ``cnr_id`` (registry id) or ``aux_id`` (GitHub ``owner/name``) names the pack.
        known: the classes that the engine has.
    """
    meta = meta if isinstance(meta, dict) else {}
    pack, source, version = (str(meta.get(key) or "") for key in ("cnr_id", "aux_id", "ver"))
    if class_type.startswith("RYLA_"):
        pack = "ryla-nodes"
    if pack == "comfy-core":
        since = f" to {version} or later" if version else ""
        return "ComfyUI itself", f"Update ComfyUI{since}: comfy update all"
    restart = "then restart ComfyUI; if it is installed, its log says IMPORT FAILED and why"
    if pack:
        return f"the pack {pack}", f"comfy node install {pack}; {restart}"
    if source:
        return f"the pack {source}", f"Install {source} in ComfyUI-Manager by its Git URL; {restart}"
    near = nearest(class_type, known, likeness=0.8)
    suggestion = f"Did you mean {near}? Else " if near else ""
    return "a pack that the graph does not name", f"{suggestion}ComfyUI-Manager > Install Missing Custom Nodes"


def is_model_file(value: str) -> bool:
    """Whether a value names a file of weights."""
    return value.lower().endswith(MODEL_SUFFIXES)


def for_model_file(name: str, input_name: str) -> tuple[str | None, str]:
    """The catalogue id of the model file named at ``input_name`` (None: not ours), and how to get the file."""
    folder = _FOLDERS.get(input_name)
    entry = catalogue.load().named(name, *([folder] if folder else []))
    if entry is None:
        place = f"the {folder} folder" if folder else "the folder that this loader reads"
        return None, f"Put {PurePosixPath(name.replace(chr(92), '/')).name} into {place}"
    return entry.id, f"ryla models install {entry.id}"
