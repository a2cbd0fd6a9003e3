"""SIGTERM and SIGHUP as Ctrl-C: what `docker stop`, systemd and a closed terminal send."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE = 5.0
"""Seconds for the cancellation; Docker kills after 10, and a ComfyUI of our own has to be stopped, too."""

_ENDINGS = ("SIGTERM", "SIGHUP")
_asked = threading.Event()


def ending() -> bool:
    """Whether we were asked to end, by a supervisor or a closed terminal."""
    return _asked.is_set()


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first of these signals, and once more when the grace is over.

    Those that are ignored (``nohup``) or handled already stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    numbers = [number for name in _ENDINGS if (number := getattr(signal, name, None)) is not None]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if ending():
            logging.getLogger("asyncio").disabled = True  # It would tell of the tasks that are left behind.
            if sys.platform != "win32":
                signal.setitimer(signal.ITIMER_REAL, 0)


def _end(number: int, _: FrameType | None) -> None:
    if ending():
        return  # systemd may send both.
    _asked.set()
    if sys.platform != "win32":
        if number == signal.SIGHUP:
            _leave_terminal()
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, GRACE)
    raise KeyboardInterrupt


def _leave_terminal() -> None:
    """A terminal that is closed takes no more text."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.isatty(descriptor):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
