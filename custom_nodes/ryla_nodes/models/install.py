"""Carry out a plan: several files at once, each under a lock, each verified before it gets its name."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .. import files
from ..errors import RylaError
from ..files import Advance
from . import check, hub_errors, locks
from .catalogue import Catalogue, ModelEntry, UrlSource
from .check import HashCache
from .download import Downloader
from .folders import ModelFolders
from .plan import Plan, Step, Target, candidates

FAILED, PRESENT, LINKED, COPIED, DOWNLOADED = "failed", "present", "linked", "copied", "downloaded"


class Reporter(Protocol):
    """Who wants to see the progress. Called from several threads."""

    def phase(self, entry: ModelEntry, what: str, total: int | None) -> Advance:
        """``entry`` now does ``what`` over ``total`` bytes; the result takes the bytes done. May raise to stop."""

    def done(self, outcome: Outcome) -> None:
        """One file is finished: installed, or failed."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file: present, linked, copied, downloaded, or failed with ``error``."""

    entry: ModelEntry
    state: str
    path: Path
    error: RylaError | None = None

    def as_dict(self) -> dict[str, object]:
        """The public JSON form."""
        error = self.error.as_dict() if self.error else None
        return {"id": self.entry.id, "state": self.state, "path": self.path, "error": error}


class Installer:
    """Installs the files of plans into one target.

    Args:
        elsewhere: folders whose files are linked or copied instead of downloaded, after their hash is checked.
        cancelled: set it to stop all work; part files stay for the next time.
    """

    def __init__(
        self,
        target: Target,
        catalogue: Catalogue,
        hashes: HashCache,
        reporter: Reporter,
        elsewhere: ModelFolders = ModelFolders(),
    ) -> None:
        self.cancelled = threading.Event()
        self._target = target
        self._catalogue = catalogue
        self._hashes = hashes
        self._reporter = reporter
        self._elsewhere = elsewhere
        self._downloader = Downloader(target, catalogue, self._phase, self._lock)

    def run(self, plan: Plan, jobs: int = 4) -> list[Outcome]:
        """Carry out ``plan`` with ``jobs`` files at a time. A file that fails does not stop the others."""
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            futures = [pool.submit(self._outcome, step) for step in plan.steps]
            try:
                outcomes = [future.result() for future in futures]
            except KeyboardInterrupt:
                self.cancelled.set()
                raise
        self._downloader.discard_archives()
        return outcomes

    def _outcome(self, step: Step) -> Outcome:
        try:
            state, path = self._install(step)
            outcome = Outcome(step.entry, state, path)
        except RylaError as error:
            outcome = Outcome(step.entry, FAILED, step.target, error)
        except OSError as error:
            outcome = Outcome(step.entry, FAILED, step.target, hub_errors.explain(error, UrlSource(str(step.target))))
        self._reporter.done(outcome)
        return outcome

    def _install(self, step: Step) -> tuple[str, Path]:
        entry, place = step.entry, step.target
        with self._lock(entry, self._target.key(entry)):
            if place.exists() and self._is_right(step):
                return PRESENT, place
            for path in candidates(entry, self._catalogue, self._elsewhere):
                state = self._reuse(entry, path, place)
                if state is not None:
                    return state, place
            part, digest = self._downloader.fetch(entry)
            _move(part, place)
            if digest:
                self._hashes.remember(place, digest)
            return DOWNLOADED, place

    def _is_right(self, step: Step) -> bool:
        try:
            check.verify(step.entry, step.target, self._hashes, self._phase(step.entry, "checking", step.entry.size))
        except RylaError as error:
            if error.code == "cancelled" or not step.replace:
                raise
            return False
        return True

    def _reuse(self, entry: ModelEntry, path: Path, place: Path) -> str | None:
        """Link or copy ``path`` to ``place`` when it has the right bytes; None when it has not."""
        try:
            check.verify(entry, path, self._hashes, self._phase(entry, "checking", entry.size))
        except RylaError as error:
            if error.code == "cancelled":
                raise
            return None
        part = self._target.part(entry, "local")
        part.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), part)
            state = LINKED
        except OSError:  # Another disk, or a file system without hard links.
            files.copy(path, part, self._phase(entry, "copying", entry.size))
            state = COPIED
        _move(part, place)
        if entry.sha256 is not None:
            self._hashes.remember(place, entry.sha256)
        return state

    def _phase(self, entry: ModelEntry, what: str, total: int | None) -> Advance:
        report = self._reporter.phase(entry, what, total)

        def advance(count: int) -> None:
            if self.cancelled.is_set():
                raise RylaError("cancelled", f"{entry.id} was interrupted.", hint="Run the same command to go on.")
            report(count)

        return advance

    @contextmanager
    def _lock(self, entry: ModelEntry, name: str) -> Iterator[None]:
        """Hold the lock of a place on the target against other installers, on this machine or another."""
        self._target.work.mkdir(parents=True, exist_ok=True)
        advances: list[Advance] = []

        def waiting(host: str) -> None:
            if not advances:
                where = f" on {host}" if host else ""
                advances.append(self._phase(entry, f"waiting for another installer{where}", None))
            advances[0](0)

        with locks.locked(self._target.work / f"{name}.lock", waiting):
            yield


def _move(part: Path, place: Path) -> None:
    """Give a finished part file its name at once; over file systems by way of a part file beside the place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.replace(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with files.replacing(place) as beside:
            files.copy(part, beside)
        part.unlink()
