"""RYLA nodes: FLUX.1 Dev with consistent characters, for ComfyUI, the terminal and HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engines.schema import ComfyExtension

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "web"


def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI once it has imported this package."""
    from .extension import load

    return load()
