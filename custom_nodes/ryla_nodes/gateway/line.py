"""The line before the engines: first come, first served, each with a place that it can be told."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Callable


class Line:
    """``capacity`` jobs pass at once; the others wait in the order in which they were accepted.

    Args:
        moved: called when somebody's place has changed.
    """

    def __init__(self, capacity: int, moved: Callable[[], None]) -> None:
        self.capacity = capacity
        self._free, self._moved = capacity, moved
        self._count = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """How many have their turn."""
        return self.capacity - self._free

    async def enter(self, accepted: float) -> None:
        """Wait for a turn; ``leave`` gives it back. A wait that is cancelled takes no turn.

        Args:
            accepted: when the job was accepted: the earliest goes first.
        """
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (accepted, next(self._count), turn)
        bisect.insort(self._waiting, place)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            elif place in self._waiting:
                self._waiting.remove(place)
                self._moved()
            raise

    def leave(self) -> None:
        """Give the turn to the next."""
        self._free += 1
        while self._free > 0 and self._waiting:
            _, _, turn = self._waiting.pop(0)
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
        self._moved()

    def ahead(self, accepted: float) -> int:
        """How many wait before a job that was accepted then."""
        return bisect.bisect_left(self._waiting, (accepted,))
