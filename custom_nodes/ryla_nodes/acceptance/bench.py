"""The engine under test: its client, and its restarts where it is ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..client.engine_process import EngineProcess
from ..client.sync_client import SyncClient
from ..errors import RylaError
from ..models.folders import ModelFolders

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""What a restarted engine runs under: it may download nothing."""

Models = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Supervised:
    """An engine that this run starts: its process, how to get a client of it, and its model folders."""

    process: EngineProcess
    client: Callable[[str], SyncClient[Any]]
    folders: Callable[[], ModelFolders]


class Bench:
    """The engine under test; use it as a context manager.

    Args:
        there: the client of an engine or a gateway that is there already.
        ours: an engine to start; instead of ``there``.

    Attributes:
        starts: how often it was started, also after it died.
    """

    def __init__(self, there: SyncClient[Any] | None, ours: Supervised | None) -> None:
        self._there, self._ours = there, ours
        self._client: SyncClient[Any] | None = there
        self.starts = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def ours(self) -> bool:
        """Whether it can be restarted."""
        return self._ours is not None

    @property
    def client(self) -> SyncClient[Any]:
        """The client; an engine of ours is started by the first question for it."""
        self.begin()
        assert self._client is not None
        return self._client

    def begin(self) -> None:
        """Start an engine of ours that was not started yet."""
        if self._client is None:
            self.restart()

    def restart(self, *, offline: bool = False) -> float:
        """Stop it and start it again; the seconds until it answers.

        Raises:
            RylaError: ``comfyui_start_failed`` with the end of its log.
        """
        assert self._ours is not None
        self._stop()
        process = self._ours.process
        process.environment = dict(OFFLINE) if offline else {}
        began = time.monotonic()
        process.start()
        self.starts += 1
        self._client = self._ours.client(process.url)
        return time.monotonic() - began

    def _stop(self) -> None:
        if self._ours is None:
            return
        if self._client is not None:
            self._client.close()
            self._client = None
        self._ours.process.stop()

    def models(self) -> Models:
        """Every model file of an engine of ours: its path, size and time."""
        return _models(self._ours.folders()) if self._ours is not None else {}

    def versions(self) -> tuple[str, ...]:
        """The versions of the engines."""
        try:
            return self.client.call(self.client.asynchronous.versions())
        except RylaError:
            return ()


def _models(folders: ModelFolders) -> Models:
    found: Models = {}
    for root in folders.every():
        for path in sorted(root.rglob("*")) if root.is_dir() else ():
            try:
                state = path.stat()
            except OSError:
                continue  # It went away while we looked.
            if path.is_file():
                found[str(path)] = (state.st_size, state.st_mtime_ns)
    return found


def changed(before: Models, after: Models) -> list[str]:
    """The files that are new, or other ones than before."""
    return [path for path, state in after.items() if before.get(path) != state]
