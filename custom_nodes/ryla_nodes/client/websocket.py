"""The websocket of one job: it brings events and wakes the poller. Losing it costs latency, never the job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from .limits import Limits
from .protocol import Connection, Signal, parse_event
from .transport import Address

_LARGEST_FRAME = 64 * 2**20
_BACKOFF = (0.25, 0.5, 1.0, 2.0, 5.0)


class Wakeups:
    """Keeps a websocket open under one ``client_id`` until it is stopped, and reconnects with the same."""

    def __init__(self, address: Address, client_id: str, limits: Limits) -> None:
        self._url, self._headers = address.websocket(client_id), address.headers
        # The default reads the environment's proxies: never right for this machine.
        self._proxy: Literal[True] | None = None if address.loopback else True
        self._deliver: Callable[[Signal], object] = lambda _: None
        self._tried = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    def deliver_to(self, deliver: Callable[[Signal], object]) -> None:
        self._deliver = deliver

    async def tried(self, limit: float) -> None:
        """Return when the first attempt to open it has ended, well or not, or after ``limit`` seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._tried.wait(), limit)

    def stop(self) -> None:
        """Close it. An engine that serves a socket which nobody reads blocks all others: so do it soon."""
        self._task.cancel()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                connection = await connect(
                    self._url,
                    additional_headers=self._headers,
                    max_size=_LARGEST_FRAME,
                    compression=None,
                    proxy=self._proxy,
                    open_timeout=5,
                    close_timeout=0.2,
                )
            except (OSError, WebSocketException, asyncio.TimeoutError):
                failures += 1
            else:
                failures = 0
                await self._listen(connection)
            self._tried.set()
            await asyncio.sleep(_BACKOFF[min(failures, len(_BACKOFF) - 1)])

    async def _listen(self, connection: ClientConnection) -> None:
        self._deliver(Connection(open=True))
        self._tried.set()
        try:
            async for frame in connection:
                event = parse_event(frame)
                if event is not None:
                    self._deliver(event)
        except WebSocketException:
            pass  # How it broke does not matter: the poller goes on, and _run opens another.
        finally:
            await connection.close()
        self._deliver(Connection(open=False))
