"""The two things that end a job's work on our side: its user and its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import RylaError

T = TypeVar("T")


class Guard:
    """Runs work until it is done, the user stops the job, or ``deadline`` (``time.monotonic``) passes."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.deadline = float("inf")
        self.stop = asyncio.Event()

    async def run(self, work: Coroutine[Any, Any, T], *, stoppable: bool = True) -> T:
        """The work's own result.

        Args:
            stoppable: False for what remains to be done when it is too late to cancel.

        Raises:
            RylaError: ``cancelled`` or ``timed_out``; the work was then given up.
        """
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.stop.wait() if stoppable else asyncio.Event().wait())
        left = self.deadline - time.monotonic()
        try:
            limit = max(0.0, left) if left != float("inf") else None
            await asyncio.wait({task, stop}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            stop.cancel()
            task.cancel()
        if stoppable and self.stop.is_set():
            raise RylaError("cancelled", "Cancelled; nothing of the job is on an engine.")
        seconds = self.deadline - self.began
        raise RylaError("timed_out", f"The job passed its deadline of {seconds:.0f} s while files were moved.")
