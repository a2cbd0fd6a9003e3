"""The node schema API: ``comfy_api.latest`` inside ComfyUI, an equal stand-in outside it.

Nodes are written once: ``from ..engines.schema import ComfyExtension, io``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__all__ = ["ComfyExtension", "io"]

# ComfyUI imports folder_paths before any pack.
if TYPE_CHECKING or "folder_paths" not in sys.modules:
    from . import io
    from .io import ComfyExtension
else:
    from comfy_api.latest import ComfyExtension, io
