"""Questions to all replicas: who has this job, cancel it, how are you.

A replica that has as many jobs as it may have takes no request through Serve, not even one to cancel. So each replica
fetches its questions here, and brings the answers.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

POLL_SECONDS = 5.0
"""How long a replica's request for questions is held open."""
_GONE_SECONDS = 15.0


@dataclass(frozen=True)
class Question:
    """A method of the replica, and what to call it with."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass
class _Box:
    """What one replica has to answer; ``seen`` when it last asked, by ``time.monotonic``."""

    seen: float
    questions: list[Question] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Asked:
    """A question that waits for answers: those that came, by replica."""

    waiting: set[str]
    answers: dict[str, Any] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Bus:
    """One for a cluster, as a deployment of its own."""

    def __init__(self) -> None:
        self._boxes: dict[str, _Box] = {}
        self._asked: dict[int, _Asked] = {}
        self._numbers = itertools.count()

    async def fetch(self, replica: str) -> list[Question]:
        """The questions for a replica; waits a while for the first."""
        box = self._boxes.setdefault(replica, _Box(0.0))
        box.seen = time.monotonic() + POLL_SECONDS
        if not box.questions:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(box.news.wait(), POLL_SECONDS)
        box.news.clear()
        box.seen = time.monotonic()
        taken, box.questions = box.questions, []
        return taken

    async def answer(self, number: int, replica: str, answer: Any) -> None:
        """What a replica says to a question."""
        asked = self._asked.get(number)
        if asked is not None:
            asked.waiting.discard(replica)
            asked.answers[replica] = answer
            asked.news.set()

    async def ask(self, method: str, arguments: tuple[Any, ...], seconds: float | None) -> dict[str, Any]:
        """The answers of the replicas that are there, by their names.

        Args:
            seconds: how long it may take; what came by then is returned. None for any time.
        """
        self._drop_gone()
        number = next(self._numbers)
        asked = self._asked[number] = _Asked(set(self._boxes))
        for box in self._boxes.values():
            box.questions.append(Question(number, method, arguments))
            box.news.set()
        end = time.monotonic() + (float("inf") if seconds is None else seconds)
        try:
            while asked.waiting and (left := end - time.monotonic()) > 0:
                asked.news.clear()
                try:
                    await asyncio.wait_for(asked.news.wait(), min(left, POLL_SECONDS))
                except asyncio.TimeoutError:
                    self._drop_gone()
                    asked.waiting &= set(self._boxes)
            return asked.answers
        finally:
            del self._asked[number]

    def _drop_gone(self) -> None:
        oldest = time.monotonic() - _GONE_SECONDS
        for name in [name for name, box in self._boxes.items() if box.seen < oldest]:
            del self._boxes[name]
