"""The node schema API: ``comfy_api.latest`` inside ComfyUI, an equal stand-in outside it.

Nodes are written once: ``from ..engines.schema import ComfyExtension, io``.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

__all__ = ["ComfyExtension", "aliases", "io"]

# ComfyUI imports folder_paths before any pack.
if TYPE_CHECKING or "folder_paths" not in sys.modules:
    from . import io
    from .io import ComfyExtension
else:
    from comfy_api.latest import ComfyExtension, io


def aliases(*words: str) -> dict[str, Any]:
    """Words by which the editor's search finds a node, as a field of ``io.Schema``; nothing where it has no such field.

    ComfyUI 0.3.64 has none: its search knows the node's id and its display name.
    """
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {"search_aliases": list(words)} if "search_aliases" in known else {}
