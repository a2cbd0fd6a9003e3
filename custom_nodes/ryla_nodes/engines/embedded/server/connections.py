"""The open connections: fewer than the process has descriptors for, and none that is waited for without end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from dataclasses import dataclass

from aiohttp import web

log = logging.getLogger(__name__)

REQUEST_SECONDS = 20.0
"""For the first request on a connection to have come, without its body."""
IDLE_SECONDS = 75.0
"""Between an answer and the next request."""
PATIENT_SECONDS = 1.0
"""Nobody who waits for less long has to make room for others."""
MOST_CONNECTIONS = 512
KEPT_DESCRIPTORS = 64
"""For libraries, model files and pictures."""


@dataclass
class _Peer:
    """What is known of a connection: since when and until when its next request, or more of a body, is waited for."""

    since: float
    until: float | None
    answered: bool = False


class Connections:
    """Accepts connections up to a limit; then the one that is waited for longest makes room, or the new one goes."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit or _limit()
        self._peers: dict[asyncio.BaseTransport, _Peer] = {}

    async def serve(self, listening: socket.socket, server: web.Server) -> None:
        """Accept connections on ``listening`` until it is cancelled."""
        listening.setblocking(False)
        sweeper = asyncio.create_task(self._sweep())
        try:
            while True:
                await self._accept(listening, server)
        finally:
            sweeper.cancel()

    def waits(self, transport: asyncio.BaseTransport | None, seconds: float | None = None) -> None:
        """Note that the peer has to send something within ``seconds`` (None: its next request)."""
        now = asyncio.get_running_loop().time()
        if transport is not None:
            until = now + (IDLE_SECONDS if seconds is None else seconds)
            self._peers[transport] = _Peer(now, until, answered=True)

    def works(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that it is the engine's turn."""
        now = asyncio.get_running_loop().time()
        if transport is not None:
            self._peers[transport] = _Peer(now, None, answered=True)

    async def _accept(self, listening: socket.socket, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        try:
            peer, _ = await loop.sock_accept(listening)
        except OSError as error:  # no descriptor is left, or the peer has gone already
            log.warning("A connection was not accepted: %s.", error.strerror)
            self._make_room()
            await asyncio.sleep(0.1)
            return
        self._forget_closed()
        if len(self._peers) >= self.limit and not self._make_room():
            _turn_away(peer)
            return
        with contextlib.suppress(OSError):
            transport, _ = await loop.connect_accepted_socket(server, peer)
            now = loop.time()
            # Its request may have come by now.
            self._peers.setdefault(transport, _Peer(now, now + REQUEST_SECONDS))

    def _forget_closed(self) -> None:
        self._peers = {transport: peer for transport, peer in self._peers.items() if not transport.is_closing()}

    def _make_room(self) -> bool:
        """Close the connection that is waited for longest; whether there was one."""
        now = asyncio.get_running_loop().time()
        waiting = {transport: peer for transport, peer in self._peers.items() if peer.until is not None}
        oldest = min(waiting, key=lambda transport: waiting[transport].since, default=None)
        if oldest is None or now - waiting[oldest].since < PATIENT_SECONDS:
            return False
        self._close(oldest, 503, "The engine has too many connections.")
        return True

    def _close(self, transport: asyncio.BaseTransport, status: int, why: str) -> None:
        peer = self._peers.pop(transport)
        if isinstance(transport, asyncio.WriteTransport) and not peer.answered and not transport.is_closing():
            transport.write(raw_answer(status, why))
        transport.close()

    async def _sweep(self) -> None:
        """Close what was waited for in vain, every second."""
        while True:
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            self._forget_closed()
            for transport, peer in list(self._peers.items()):
                if peer.until is not None and now > peer.until:
                    self._close(transport, 408, "No request came in time.")


def raw_answer(status: int, message: str) -> bytes:
    """An answer to a connection whose request was not read."""
    reason = {408: "Request Timeout", 503: "Service Unavailable"}[status]
    error = {"type": "connection_refused", "message": message, "details": message, "extra_info": {}}
    body = json.dumps({"error": error, "node_errors": {}}).encode()
    head = (
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body


def _turn_away(peer: socket.socket) -> None:
    """Tell a peer that there is no room. What it has sent is read first: else it would not see the answer."""
    with peer, contextlib.suppress(OSError):
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            peer.recv(1 << 16)
        peer.send(raw_answer(503, "The engine has too many connections."))
        peer.shutdown(socket.SHUT_WR)


def _limit() -> int:
    """Half of the descriptors that are left to the process, since a request may need one of its own, too."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (soft - KEPT_DESCRIPTORS) // 2 if soft != resource.RLIM_INFINITY else MOST_CONNECTIONS
    return max(8, min(MOST_CONNECTIONS, free))
