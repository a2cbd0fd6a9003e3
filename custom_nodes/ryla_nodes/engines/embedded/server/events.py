"""The websocket side: who listens, and messages to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from .messages import Refused, parse_json

log = logging.getLogger(__name__)

LONGEST_BACKLOG = 4096
LONGEST_MESSAGE = 1 << 20
FEATURES: dict[str, Any] = {"supports_preview_metadata": False}


@dataclass(eq=False)
class _Client:
    """One open websocket. Its messages wait in a queue of its own, so a stuck peer holds up nobody else."""

    sid: str
    request: web.Request
    socket: web.WebSocketResponse
    backlog: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(LONGEST_BACKLOG))

    def put(self, message: str) -> None:
        try:
            self.backlog.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("Websocket client %s does not read its messages: dropped.", self.sid)
            if self.request.transport is not None:
                self.request.transport.abort()

    async def send_all(self) -> None:
        """Send what is put until the socket closes."""
        while True:
            await self.socket.send_str(await self.backlog.get())


class Hub:
    """The open websockets by client id; a client that connects anew takes the place of its older socket.

    Args:
        status: the length of the queue, as clients are told it.
        most: how many sockets may be open.
    """

    def __init__(self, status: Callable[[], Mapping[str, Any]], most: int) -> None:
        self._status = status
        self._most = most
        self._open = 0
        self._clients: dict[str, _Client] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executing: tuple[str | None, str | None] = (None, None)

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Deliver messages in ``loop`` from now on; None: drop them."""
        self._loop = loop

    def send(self, event: str, data: Mapping[str, Any], client_id: str | None) -> None:
        """Send from any thread: to ``client_id``, or to all when that is None."""
        message = json.dumps({"type": event, "data": data}, allow_nan=False)
        if event == "executing":
            self._executing = (client_id, data["node"])
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed since
                loop.call_soon_threadsafe(self._deliver, message, client_id)

    def send_status(self) -> None:
        """Tell everybody the length of the queue."""
        self.send("status", {"status": self._status()}, None)

    def _deliver(self, message: str, client_id: str | None) -> None:
        clients = self._clients.values() if client_id is None else filter(None, [self._clients.get(client_id)])
        for client in list(clients):
            client.put(message)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """``GET /ws?clientId=...``

        Raises:
            Refused: too many are open.
        """
        if self._open >= self._most:
            raise Refused(503, "engine_busy", f"The engine has {self._most} open websockets, and no more.")
        self._open += 1
        try:
            return await self._serve(request)
        finally:
            self._open -= 1

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=LONGEST_MESSAGE)
        await socket.prepare(request)
        client = _Client(request.query.get("clientId") or uuid.uuid4().hex, request, socket)
        self._clients[client.sid] = client
        sender = asyncio.create_task(client.send_all())
        try:
            self._greet(client)
            await self._listen(client)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            if self._clients.get(client.sid) is client:
                del self._clients[client.sid]
        return socket

    def _greet(self, client: _Client) -> None:
        greeting = {"status": self._status(), "sid": client.sid}
        client.put(json.dumps({"type": "status", "data": greeting}))
        owner, node = self._executing
        if owner == client.sid and node is not None:
            client.put(json.dumps({"type": "executing", "data": {"node": node}}))

    async def _listen(self, client: _Client) -> None:
        """Read until the peer closes; a first message with its feature flags is answered with ours."""
        first = True
        async for message in client.socket:
            if message.type is not WSMsgType.TEXT:
                continue
            if first and _kind(message.data) == "feature_flags":
                client.put(json.dumps({"type": "feature_flags", "data": FEATURES}))
            first = False

    async def close(self) -> None:
        """Close every socket."""
        await asyncio.gather(*(client.socket.close(code=1001) for client in list(self._clients.values())))


def _kind(text: str) -> Any:
    try:
        message = parse_json(text)
    except Refused:
        return None
    return message.get("type") if isinstance(message, dict) else None
