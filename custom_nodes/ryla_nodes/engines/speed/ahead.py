"""The compiler made ready for a job while its weights are read. Imports torch on a thread of its own only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ... import settings
from ..protocol import SpeedMode

if TYPE_CHECKING:
    import torch

_threads: dict[SpeedMode, threading.Thread] = {}


def begin(modes: Iterable[SpeedMode], device: Callable[[], torch.device]) -> None:
    """Make the compiler ready for ``modes``, once in a process and one after the other."""
    for mode in modes:
        if mode not in _threads:
            given = mode, device, list(_threads.values())
            thread = threading.Thread(target=_prepare, args=given, name="ryla-warm", daemon=True)
            _threads[mode] = thread
            thread.start()


def wait() -> None:
    """Wait for what is under way: two threads that import the same modules get into each other's way."""
    for thread in list(_threads.values()):
        thread.join()


def _prepare(mode: SpeedMode, device: Callable[[], torch.device], before: list[threading.Thread]) -> None:
    for thread in before:
        thread.join()
    from . import warming

    warming.warm(mode, device(), settings.load().volume)
