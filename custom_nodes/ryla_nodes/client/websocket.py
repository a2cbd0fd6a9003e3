"""The websocket of one job: it brings events and wakes the poller. Losing it costs latency, never the job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import websocket

from .address import Address, Route
from .limits import Limits
from .protocol import Connection, Signal, parse_event

_PREVIEW = 1
_PREVIEW_WITH_METADATA = 4
_TYPES = {1: "image/jpeg", 2: "image/png"}


@dataclass(frozen=True)
class Preview:
    """A small picture of what a job is at.

    Attributes:
        type: ``image/jpeg`` or ``image/png``.
        prompt_id: whose it is; "" when the engine does not say.
    """

    data: bytes = field(repr=False)
    type: str
    prompt_id: str = ""


OnPreview = Callable[[Preview], None]


def parse_preview(frame: bytes) -> Preview | None:
    """Read one binary frame; None for another kind, and for what cannot be read.

    All numbers are big-endian, of 32 bits. Kind 1 is followed by the format (1 JPEG, 2 PNG) and the picture, kind 4
    by the length of a JSON object, the object (``image_type``, ``prompt_id``) and the picture.
    """
    kind, second, rest = _number(frame, 0), _number(frame, 4), frame[8:]
    if kind == _PREVIEW:
        return Preview(rest, _TYPES[second]) if second in _TYPES and rest else None
    if kind != _PREVIEW_WITH_METADATA or len(rest) <= second:
        return None
    try:
        told = json.loads(rest[:second])
        known = told["image_type"] in _TYPES.values()
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Preview(rest[second:], told["image_type"], str(told.get("prompt_id") or "")) if known else None


def _number(frame: bytes, offset: int) -> int:
    return int.from_bytes(frame[offset : offset + 4], "big")


_BACKOFF = (0.25, 0.5, 1.0, 2.0, 5.0)
_TICK = 0.5
_SWITCHING_PROTOCOLS = 101


class Wakeups:
    """Keeps a websocket open under one ``client_id`` until it is stopped, and reconnects with the same.

    A thread of its own reads it, and hands each signal, and each preview when asked, to the event loop in which this
    was made.
    """

    def __init__(
        self,
        address: Address,
        route: Route,
        client_id: str,
        limits: Limits,
        *,
        on_preview: OnPreview | None = None,
    ) -> None:
        self._on_preview = on_preview
        self._url = address.websocket(client_id)
        self._route = route
        self._options = _options(address, route, limits)
        self._loop = asyncio.get_running_loop()
        self._deliver: Callable[[Signal], object] = _ignore
        self._tried, self._closed = asyncio.Event(), asyncio.Event()
        self._stopped = threading.Event()
        self._connection = websocket.WebSocket(skip_utf8_validation=True)
        threading.Thread(target=self._run, name="ryla-websocket", daemon=True).start()

    def deliver_to(self, deliver: Callable[[Signal], object]) -> None:
        """Call ``deliver`` in the event loop with every signal from now on."""
        self._deliver = deliver

    async def tried(self, limit: float) -> None:
        """Return when the first attempt to open it is over, successful or not, or after ``limit`` seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._tried.wait(), limit)

    def stop(self) -> None:
        """Close it. An engine that serves a socket which nobody reads blocks all others: so do it soon."""
        self._deliver = _ignore
        self._stopped.set()
        connection = self._connection
        with contextlib.suppress(OSError, websocket.WebSocketException):
            # Two threads may use a TCP socket at once, but not TLS.
            if connection.connected and not connection.is_ssl():
                connection.send_close()
        if connection.sock is not None:
            # The thread's read ends at once; where it does not, the thread looks up every _TICK.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection.sock, socket.SHUT_RD)

    async def closed(self) -> None:
        """Return when the thread has ended, or after a moment: one that is still connecting ends by itself."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closed.wait(), _TICK)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # A loop that was closed meanwhile no longer waits for anything.
        with contextlib.suppress(RuntimeError):
            self._keep_open()
        self._connection.shutdown()

    def _keep_open(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            opened = self._open()
            self._loop.call_soon_threadsafe(self._tried.set)
            if opened:
                self._listen()
            self._connection.shutdown()
            failures = 0 if opened else failures + 1
            self._stopped.wait(_BACKOFF[min(failures, len(_BACKOFF) - 1)])
        self._loop.call_soon_threadsafe(self._closed.set)

    def _open(self) -> bool:
        with contextlib.suppress(OSError, ValueError, websocket.WebSocketException):
            if self._url.startswith("wss:"):
                self._connection.sock_opt.sslopt = {"context": self._route.tls}
            self._connection.connect(self._url, **self._options)
            return bool(self._connection.status == _SWITCHING_PROTOCOLS)
        return False

    def _listen(self) -> None:
        self._loop.call_soon_threadsafe(self._deliver, Connection(open=True))
        self._connection.settimeout(_TICK)
        # How it breaks does not matter: the poller goes on, and another one is opened.
        with contextlib.suppress(OSError, websocket.WebSocketException):
            self._read()
        self._loop.call_soon_threadsafe(self._deliver, Connection(open=False))

    def _read(self) -> None:
        while not self._stopped.is_set():
            try:
                opcode, data = self._connection.recv_data()
            except websocket.WebSocketTimeoutException:
                continue
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return
            event = parse_event(data) if opcode == websocket.ABNF.OPCODE_TEXT else None
            if event is not None:
                self._loop.call_soon_threadsafe(self._deliver, event)
            if opcode == websocket.ABNF.OPCODE_BINARY and self._on_preview is not None:
                self._hand_on(data, self._on_preview)

    def _hand_on(self, frame: bytes, on_preview: OnPreview) -> None:
        preview = parse_preview(frame)
        if preview is not None and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(on_preview, preview)


def greets(address: Address, route: Route, client_id: str, limits: Limits) -> bool:
    """Whether a new websocket is opened and sent a first message: an engine that is stuck sending greets nobody.

    Blocks for ``limits.connect`` seconds at most for each of the two.
    """
    connection = websocket.WebSocket(skip_utf8_validation=True)
    try:
        if route.tls is not None:
            connection.sock_opt.sslopt = {"context": route.tls}
        connection.connect(address.websocket(client_id), **_options(address, route, limits))
        return bool(connection.status == _SWITCHING_PROTOCOLS and connection.recv())
    except (OSError, ValueError, websocket.WebSocketException):
        return False
    finally:
        connection.shutdown()


def _options(address: Address, route: Route, limits: Limits) -> dict[str, Any]:
    return {
        "header": address.headers,
        "timeout": limits.connect,
        "suppress_origin": True,
        # A login goes to the address that it was given for, and to no other.
        "redirect_limit": 0,
        **route.websocket,
    }


def _ignore(_: Signal) -> None:
    return
