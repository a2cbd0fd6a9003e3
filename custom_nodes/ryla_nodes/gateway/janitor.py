"""Deleting what need not be kept: old jobs, pictures when too many, uploads without a job, engines' files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import RylaError
from .jobs import Jobs
from .options import Limits

log = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
_ENGINE_SECONDS = 86400.0  # An engine may still tell the picture of a job that it has run before.


class Janitor:
    """Goes through the state folder once a minute.

    Args:
        outputs: the output folders of the gateway's own engines.
    """

    def __init__(self, jobs: Jobs, limits: Limits, outputs: Sequence[Path] = ()) -> None:
        self._jobs, self._limits, self._outputs = jobs, limits, outputs
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._work())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.clean()
            except (RylaError, OSError) as error:
                log.warning("The state folder could not be cleaned: %s", error)

    async def clean(self) -> None:
        """Delete all that is too old or too much."""
        jobs, limits = self._jobs, self._limits
        while old := await jobs.store.ended_before(time.time() - limits.keep_seconds):
            for job_id in old:
                await asyncio.to_thread(jobs.files.forget, job_id)
                jobs.forget(job_id)
            await jobs.store.delete(old)
        removed = await asyncio.to_thread(jobs.files.shrink, limits.keep_bytes, jobs.alive)
        if removed:
            log.info("The pictures of %d jobs were deleted to keep within --keep-gib.", removed)
        await asyncio.to_thread(jobs.uploads.sweep)
        oldest = time.time() - max(limits.keep_seconds, _ENGINE_SECONDS)
        for folder in self._outputs:
            await asyncio.to_thread(_sweep, folder, oldest)


def _sweep(folder: Path, oldest: float) -> None:
    """Delete the files below ``folder`` that were written before ``oldest``, in Unix seconds."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
