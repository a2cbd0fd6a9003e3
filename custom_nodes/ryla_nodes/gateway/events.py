"""What happens to a job, as numbered events that several listeners may follow and take up again."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..client import Preview

MEDIA_TYPE = "text/event-stream"

_KEPT = 256
HEARTBEAT = 15.0
"""Seconds without an event after which a comment is sent."""
STILL_HERE = b": still here\n\n"
_PREVIEW_PAUSE = 0.3
_PREVIEW_BYTES = 2**20


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
        self._preview: dict[str, str] = {}
        self._previews, self._next_preview = 0, 0.0
        self.listeners = self.viewers = 0

    def add(self, kind: str, data: Mapping[str, Any], *, last: bool = False) -> None:
        """Append an event; with ``last`` none follows."""
        self._number += 1
        self._events.append(Event(self._number, kind, data))
        self._ended = self._ended or last
        if last:
            self._preview = {}
        self._wake()

    def show(self, preview: Preview) -> None:
        """Show an unfinished picture to those who asked for previews: a few a second, and none of them is kept."""
        now = time.monotonic()
        if not self.viewers or now < self._next_preview or len(preview.data) > _PREVIEW_BYTES or self._ended:
            return
        self._next_preview = now + _PREVIEW_PAUSE
        self._previews += 1
        self._preview = {"image": f"data:{preview.type};base64,{base64.b64encode(preview.data).decode()}"}
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def after(self, last_id: str) -> int:
        """The number that a ``Last-Event-ID`` names; 0 for one of another process, so that all is told again."""
        epoch, _, number = last_id.partition("-")
        return int(number) if epoch == self._epoch and number.isdecimal() and len(number) < 18 else 0

    async def stream(self, last_id: str, *, previews: bool = False) -> AsyncIterator[bytes]:
        """Server-sent events behind ``last_id``, until the job ends; a comment when nothing happens for long.

        Args:
            previews: also unfinished pictures, without a number: a stream that is taken up again goes on behind them.
        """
        seen = self.after(last_id)
        self.listeners += 1
        self.viewers += previews
        try:
            async for chunk in self._stream(seen, previews):
                yield chunk
        finally:
            self.listeners -= 1
            self.viewers -= previews

    async def _stream(self, seen: int, previews: bool) -> AsyncIterator[bytes]:
        shown = self._previews
        while True:
            for event in [event for event in self._events if event.number > seen]:
                seen = event.number
                yield encoded(event.kind, event.data, f"{self._epoch}-{event.number}")
            if self._ended:
                return
            if previews and self._previews > shown:
                shown = self._previews
                yield encoded("preview", self._preview)
                continue
            try:
                await asyncio.wait_for(self._changed.wait(), HEARTBEAT)
            except asyncio.TimeoutError:
                yield STILL_HERE


def encoded(kind: str, data: Mapping[str, Any], event_id: str = "") -> bytes:
    """One event on the wire."""
    identity = f"id: {event_id}\n" if event_id else ""
    return f"{identity}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def done(job_id: str, state: str, error: Mapping[str, Any] | None) -> bytes:
    """The last event of a job that is not alive here."""
    return encoded("done", {"job_id": job_id, "state": state, "error": error})
