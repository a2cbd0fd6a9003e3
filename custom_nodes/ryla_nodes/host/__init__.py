"""The seam between our nodes and the engine they run in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from .protocol import FluxFiles, Host, LoraResult, SaveTarget

__all__ = ["FluxFiles", "Host", "LoraResult", "SaveTarget", "current", "inside_comfyui", "use"]

_current: ContextVar[Host] = ContextVar("ryla_host")


def inside_comfyui() -> bool:
    """Whether this process is a ComfyUI: it imports ``folder_paths`` before any pack."""
    return "folder_paths" in sys.modules


@contextmanager
def use(host: Host) -> Iterator[None]:
    """Within this block nodes run in ``host``; several embedded engines may live in one process."""
    token = _current.set(host)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Host:
    """The engine that runs this code: the one given to ``use``, else ComfyUI's."""
    return _current.get(None) or _comfy()


@cache
def _comfy() -> Host:
    from .comfy import ComfyHost

    return ComfyHost()
