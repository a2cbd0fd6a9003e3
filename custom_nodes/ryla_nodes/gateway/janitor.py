"""Deleting what need not be kept: old jobs, the oldest pictures when they are too many, uploads without a job."""

from __future__ import annotations

import asyncio
import logging
import time

from ..errors import RylaError
from .jobs import Jobs
from .options import Limits

log = logging.getLogger(__name__)

EVERY_SECONDS = 60.0


class Janitor:
    """Goes through the state folder once a minute."""

    def __init__(self, jobs: Jobs, limits: Limits) -> None:
        self._jobs, self._limits = jobs, limits
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
                await asyncio.to_thread(jobs.results.forget, job_id)
                jobs.forget(job_id)
            await jobs.store.delete(old)
        removed = await asyncio.to_thread(jobs.results.shrink, limits.keep_bytes, jobs.alive)
        if removed:
            log.info("The pictures of %d jobs were deleted to keep within --keep-gib.", removed)
        await asyncio.to_thread(jobs.uploads.sweep)
