"""One job on a replica: it goes on whoever asks about it, and several may follow it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress

from ...client import Job, Progress, Result

_REPORT_SECONDS = 0.25
_KEPT = 64
_KEPT_SECONDS = 900.0


class Work:
    """A job from the order to its result. Belongs to one event loop.

    Attributes:
        result: how it ended; None while it goes on.
        ended: when, by ``time.monotonic``.
    """

    def __init__(self) -> None:
        self.result: Result | None = None
        self.ended = float("inf")
        self._progress: Progress | None = None
        self._job: Job | None = None
        self._stopped = False
        self._changed, self._over = asyncio.Event(), asyncio.Event()

    def show(self, progress: Progress) -> None:
        """How far it is; whoever follows hears of the last only."""
        self._progress = progress
        self._wake()

    def begin(self, job: Job) -> None:
        """An engine's job is now its own."""
        self._job = job
        if self._stopped:
            job.cancel()

    def stop(self) -> None:
        """Have it cancelled, also when it has not begun yet."""
        self._stopped = True
        if self._job is not None:
            self._job.cancel()

    def end(self, result: Result) -> None:
        """It is over."""
        self.result, self.ended, self._job = result, time.monotonic(), None
        self._over.set()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def reports(self) -> AsyncIterator[Progress | Result]:
        """How far it is, a few times a second, and the result at the end."""
        shown: Progress | None = None
        after = 0.0
        while self.result is None:
            changed, pause = self._changed, after - time.monotonic()
            if self._progress is None or self._progress is shown:
                await changed.wait()
            elif pause > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._over.wait(), pause)
            else:
                shown, after = self._progress, time.monotonic() + _REPORT_SECONDS
                yield shown
        yield self.result

    async def over(self) -> Result:
        """Its result, once it is over."""
        await self._over.wait()
        assert self.result is not None
        return self.result


class Works:
    """The jobs of a replica by prompt id; those that are over stay for a while, for a gateway that comes back."""

    def __init__(self) -> None:
        self._works: OrderedDict[str, Work] = OrderedDict()

    def get(self, prompt_id: str) -> Work | None:
        return self._works.get(prompt_id)

    def add(self, prompt_id: str) -> Work:
        """A new one."""
        self._forget()
        work = self._works[prompt_id] = Work()
        return work

    def _forget(self) -> None:
        over = [key for key, work in self._works.items() if work.result is not None]
        oldest = time.monotonic() - _KEPT_SECONDS
        for number, key in enumerate(over):
            if number < len(over) - _KEPT or self._works[key].ended < oldest:
                del self._works[key]
