"""Jobs that another gateway has, or had: their photos, and how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from . import events
from .job import JobSpec, Outcome
from .job_files import PHOTO, JobFiles
from .store import JobStore
from .uploads import Uploads

_LOOK_SECONDS = 0.5


class Elsewhere:
    """What gateways that share a store leave for each other.

    Args:
        uploads: this gateway's own.
    """

    def __init__(self, files: JobFiles, uploads: Uploads, store: JobStore) -> None:
        self._files, self._uploads, self._store = files, uploads, store

    async def share(self, job_id: str, spec: JobSpec) -> None:
        """Keep a job's photos where the others find them.

        Raises:
            RylaError: ``job_store_unreachable``.
        """
        if self._files.shared:
            for name in spec.uploads:
                content = await asyncio.to_thread(self._uploads.path(name).read_bytes)
                await asyncio.to_thread(self._files.write, job_id, PHOTO + name, content)

    async def bring(self, job_id: str, spec: JobSpec) -> None:
        """Have a job's photos here, which another gateway was given.

        Raises:
            RylaError: ``job_store_unreachable``, ``disk_full``.
        """
        for name in spec.uploads:
            if self._files.shared and not self._uploads.path(name).exists():
                content = await asyncio.to_thread(self._files.read, job_id, PHOTO + name)
                if content is not None:
                    await asyncio.to_thread(self._uploads.put, name, content)

    async def forget(self, job_id: str, spec: JobSpec) -> None:
        """The job has ended: its photos go."""
        if self._files.shared and spec.uploads:
            await asyncio.to_thread(self._files.forget, job_id, PHOTO)

    async def end(self, job_id: str, limit: float) -> Outcome | None:
        """How a job ended, once it has; None when it has not after ``limit`` seconds.

        Raises:
            RylaError: ``job_store_unreachable``.
        """
        until = time.monotonic() + limit
        while True:
            stored = await self._store.get(job_id)
            if stored is not None and stored[1] is not None:
                return Outcome.parse(stored[1])
            if time.monotonic() > until:
                return None
            await asyncio.sleep(_LOOK_SECONDS)

    async def stream(self, job_id: str) -> AsyncIterator[bytes]:
        """The events of a job: no more than that it waits, and how it ended."""
        yield events.encoded("queued", {"job_id": job_id})
        while (outcome := await self.end(job_id, events.HEARTBEAT)) is None:
            yield events.STILL_HERE
        yield events.done(job_id, outcome.state, outcome.error)
