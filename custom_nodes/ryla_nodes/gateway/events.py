"""What happens to a job, as numbered events that several listeners may follow and take up again."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

MEDIA_TYPE = "text/event-stream"

_KEPT = 256
_HEARTBEAT = 15.0


@dataclass(frozen=True)
class Event:
    """One event; ``number`` grows by one from 1 on."""

    number: int
    kind: str
    data: Mapping[str, Any]


class EventLog:
    """The last events of one job. Belongs to one event loop.

    Args:
        epoch: tells this process' numbers from those of an earlier one.
    """

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._number = 0
        self._changed = asyncio.Event()
        self._ended = False
        self.listeners = 0

    def add(self, kind: str, data: Mapping[str, Any], *, last: bool = False) -> None:
        """Append an event; with ``last`` none follows."""
        self._number += 1
        self._events.append(Event(self._number, kind, data))
        self._ended = self._ended or last
        self._changed.set()
        self._changed = asyncio.Event()

    def after(self, last_id: str) -> int:
        """The number that a ``Last-Event-ID`` names; 0 for one of another process, so that all is told again."""
        epoch, _, number = last_id.partition("-")
        return int(number) if epoch == self._epoch and number.isdecimal() and len(number) < 18 else 0

    async def stream(self, last_id: str) -> AsyncIterator[bytes]:
        """Server-sent events behind ``last_id``, until the job ends; a comment when nothing happens for long."""
        seen = self.after(last_id)
        self.listeners += 1
        try:
            async for chunk in self._stream(seen):
                yield chunk
        finally:
            self.listeners -= 1

    async def _stream(self, seen: int) -> AsyncIterator[bytes]:
        while True:
            for event in [event for event in self._events if event.number > seen]:
                seen = event.number
                yield encoded(event.kind, event.data, f"{self._epoch}-{event.number}")
            if self._ended:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), _HEARTBEAT)
            except asyncio.TimeoutError:
                yield b": still here\n\n"


def encoded(kind: str, data: Mapping[str, Any], event_id: str = "") -> bytes:
    """One event on the wire."""
    identity = f"id: {event_id}\n" if event_id else ""
    return f"{identity}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
