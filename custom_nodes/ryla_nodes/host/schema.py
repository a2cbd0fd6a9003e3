"""The node schema API: ``comfy_api.latest`` inside ComfyUI, an equal stand-in outside it.

Nodes are written once: ``from ..host.schema import ComfyExtension, io``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import inside_comfyui

__all__ = ["ComfyExtension", "io"]

if TYPE_CHECKING or not inside_comfyui():
    from . import schema_io as io
    from .schema_io import ComfyExtension
else:
    from comfy_api.latest import ComfyExtension, io
