"""A job's server-sent events: read in the background, taken up again behind the last one when the connection breaks."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ...errors import RylaError
from ..transport import CallFailed
from ..websocket import OnPreview, Preview
from .api import GatewayApi, lines_of
from .problems import refusal

BROKEN = "broken"
"""The kind of event that is delivered when a connection breaks: it is time to ask."""

_MEDIA_TYPE = "text/event-stream"
_SILENCE = 40.0
"""The gateway says something every 15 seconds."""
_PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class ServerEvent:
    """One event of a stream; ``id`` is "" when it has none."""

    id: str
    kind: str
    data: str


async def parsed(lines: AsyncIterator[str]) -> AsyncIterator[ServerEvent]:
    """The events of a stream, as the HTML standard reads them; comments and unknown fields are passed over."""
    fields: dict[str, str] = {}
    data: list[str] = []
    async for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif line:
            fields[name] = value
        else:
            if data:
                yield ServerEvent(fields.get("id", ""), fields.get("event", "message"), "\n".join(data))
            fields, data = {}, []


class Feed:
    """Listens while its block runs. Losing it costs latency, never the job.

    Args:
        deliver: called with kind and data of each event but previews.

    Attributes:
        heard: whether the present connection has brought an event: a proxy that keeps all back brings none.
    """

    def __init__(
        self,
        api: GatewayApi,
        job_id: str,
        deliver: Callable[[str, Mapping[str, Any]], None],
        on_preview: OnPreview | None,
    ) -> None:
        self.heard = False
        self._api, self._job_id, self._deliver, self._on_preview = api, job_id, deliver, on_preview
        self._last_id = ""

    async def __aenter__(self) -> Feed:
        self._task = asyncio.ensure_future(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _listen(self) -> None:
        async with self._api.streams:
            failures = 0
            while True:
                try:
                    if await self._connection():
                        return
                    failures = 0
                except CallFailed:
                    failures += 1
                except RylaError:
                    return  # There is no such stream: who asks is told so, too.
                self.heard = False
                self._deliver(BROKEN, {})
                await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])

    async def _connection(self) -> bool:
        """Read one connection to its end; whether that was the job's, too."""
        previews = self._on_preview is not None
        async with self._api.events(self._job_id, self._last_id, previews=previews) as response:
            if response.status_code != 200:
                await response.aread()
                raise refusal(self._api.server, response)
            if not response.headers.get("Content-Type", "").startswith(_MEDIA_TYPE):
                return True
            async for event in parsed(lines_of(response, _SILENCE)):
                self._take(event)
                if event.kind == "done":
                    return True
        return False

    def _take(self, event: ServerEvent) -> None:
        self.heard = True
        self._last_id = event.id or self._last_id
        try:
            data = json.loads(event.data)
        except (ValueError, RecursionError):
            return
        if not isinstance(data, dict):
            return
        if event.kind != "preview":
            self._deliver(event.kind, data)
        elif self._on_preview is not None and (preview := _preview(data)) is not None:
            self._on_preview(preview)


def _preview(data: Mapping[str, Any]) -> Preview | None:
    head, _, encoded = str(data.get("image", "")).partition(";base64,")
    try:
        return Preview(base64.b64decode(encoded, validate=True), head.removeprefix("data:"))
    except (binascii.Error, ValueError):
        return None
