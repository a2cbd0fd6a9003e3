"""The engine that runs the present request or job: several may live in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from .. import host as hosts
from ..host import Host
from ..host.files import EngineFiles

Enter = Callable[[], AbstractContextManager[None]]

_files: ContextVar[EngineFiles] = ContextVar("ryla_engine_files")


@contextmanager
def using(files: EngineFiles, host: Host) -> Iterator[None]:
    """Within this block ``files()`` gives ``files`` and nodes run in ``host``."""
    token = _files.set(files)
    try:
        with hosts.use(host):
            yield
    finally:
        _files.reset(token)


def files() -> EngineFiles:
    """The folders of the engine that runs this code."""
    return _files.get()
