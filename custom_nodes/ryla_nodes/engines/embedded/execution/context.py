"""The engine that runs the present request or job: several may live in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from ...protocol import Engine, running_in
from ..files import EngineFiles

Enter = Callable[[], AbstractContextManager[None]]

_files: ContextVar[EngineFiles] = ContextVar("ryla_engine_files")


@contextmanager
def using(files: EngineFiles, engine: Engine) -> Iterator[None]:
    """Within this block ``files()`` gives ``files`` and nodes run in ``engine``."""
    token = _files.set(files)
    try:
        with running_in(engine):
            yield
    finally:
        _files.reset(token)


def files() -> EngineFiles:
    """The folders of the engine that runs this code."""
    return _files.get()
