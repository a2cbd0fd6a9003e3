"""The seam between our nodes and the engine they run in."""

from __future__ import annotations

import sys

from .protocol import FluxFiles, Host, LoraResult, SaveTarget

__all__ = ["FluxFiles", "Host", "LoraResult", "SaveTarget", "current", "inside_comfyui", "use"]

_hosts: list[Host] = []


def inside_comfyui() -> bool:
    """Whether this process is a ComfyUI: it imports ``folder_paths`` before any pack."""
    return "folder_paths" in sys.modules


def use(host: Host) -> None:
    """Make ``host`` the engine that nodes of this process run in (called once by the embedded engine)."""
    _hosts[:] = [host]


def current() -> Host:
    """The engine of this process: the one given to ``use``, else ComfyUI's."""
    if not _hosts:
        from .comfy import ComfyHost

        _hosts.append(ComfyHost())
    return _hosts[0]
