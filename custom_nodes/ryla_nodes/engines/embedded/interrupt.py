"""Cancelling the running job of the embedded engine: a flag that long loops look at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_flag: ContextVar[threading.Event | None] = ContextVar("ryla_interrupt", default=None)


class Interrupted(Exception):
    """The running job was cancelled."""


@contextmanager
def listening(flag: threading.Event) -> Iterator[None]:
    """Within this block, in this thread, ``check`` raises once ``flag`` is set."""
    token = _flag.set(flag)
    try:
        yield
    finally:
        _flag.reset(token)


def check() -> None:
    """Raise ``Interrupted`` when the job that runs in this thread was cancelled; do nothing outside a job."""
    flag = _flag.get()
    if flag is not None and flag.is_set():
        raise Interrupted
