"""Serving the gateway: the socket, the signals, the drain."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from types import FrameType

import uvicorn

from ..errors import RylaError
from .app import Gateway

log = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0


class Server(uvicorn.Server):
    """Serves until a signal; the first one drains, the second leaves at once."""

    def __init__(self, gateway: Gateway, listening: socket.socket, drain_seconds: float) -> None:
        config = uvicorn.Config(
            gateway.app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(_GRACE_SECONDS),
            lifespan="off",
        )
        super().__init__(config)
        self._gateway, self._listening, self._drain_seconds = gateway, listening, drain_seconds
        self._draining: asyncio.Task[None] | None = None

    def serve_to_end(self) -> None:
        """Serve, on uvloop where it is installed.

        Raises:
            RylaError: what starting the gateway raises.
        """
        self.run(sockets=[self._listening])

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the gateway, serve, stop the gateway."""
        async with self._gateway.running():
            await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal handler of uvicorn, in the event loop's thread."""
        if self._draining is not None or sig not in (signal.SIGTERM, signal.SIGINT):
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.get_event_loop().create_task(self._drain())

    async def _drain(self) -> None:
        log.info("Stopping: the jobs that engines have may end; those that wait go on at the next start.")
        await self._gateway.drain(self._drain_seconds)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; 0 picks a free port.

    Raises:
        RylaError: ``port_in_use``, ``engine_cannot_listen``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RylaError("port_in_use", f"Port {port} on {host} is in use by another program.") from None
        raise RylaError("engine_cannot_listen", f"Listening on {host}:{port} failed: {error}.") from None
