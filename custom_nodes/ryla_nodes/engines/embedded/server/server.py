"""The embedded engine: ComfyUI's HTTP and websocket API in two threads of this process."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from .... import settings as environment
from ....errors import RylaError
from ....models.folders import standalone
from ...protocol import running_in
from ..core_nodes import core_classes
from ..engine import EmbeddedEngine
from ..execution.calls import Reporter
from ..execution.executor import Executor
from ..execution.jobs import MAXIMUM_HISTORY, JobQueue, Worker
from ..execution.registry import NodeClass, Registry
from .connections import Connections
from .events import Hub
from .files import FileRoutes
from .guard import Access, Guard, is_loopback, understood
from .info import InfoRoutes
from .jobs import JobRoutes
from .messages import BODIES, Bodies

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0


class EngineServer:
    """An engine at ``url``. Start and stop it, or use it as a context manager.

    Args:
        home: its folder; input, output and temp are made below it, and ``models`` may hold models.
        nodes: the node classes that it knows beside ComfyUI's own.
        port: where it listens; 0 picks a free port.
        host: the address it listens on. Any but a loopback one needs ``token``.
        token: what ``Authorization: Bearer`` must hold in every request; None lets this machine's programs in.
        settings: the environment; read anew when None.
        maximum_history: how many ended jobs are remembered.
        hide_paths: whether answers name this machine's folders by what they are instead of where they are.
    """

    def __init__(
        self,
        home: Path,
        nodes: Iterable[NodeClass],
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        token: str | None = None,
        settings: environment.Settings | None = None,
        maximum_history: int = MAXIMUM_HISTORY,
        hide_paths: bool = True,
    ) -> None:
        if token is None and not is_loopback(host):
            raise RylaError(
                "token_required",
                f"The engine was to listen on {host}, where other machines reach it, without a token.",
            )
        self._address = (host, port)
        self._token = token
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        settings = settings or environment.load()
        self._access = Access(host, token, settings.allowed_hosts)
        self.engine = EmbeddedEngine(home, standalone(settings))
        self.files = self.engine.files
        with running_in(self.engine):
            self.registry = Registry([*core_classes(), *nodes])
        self._reporter = Reporter(_folder_names(self.engine, settings) if hide_paths else None)
        self._connections = Connections()
        self.queue = JobQueue(lambda: self._hub.send_status(), maximum_history)
        self._jobs = JobRoutes(self.queue, self.registry, self._reporter, self.engine)
        self._hub = Hub(self._jobs.status, self._connections.limit // 2)
        self._executor = Executor(self.registry, self._hub.send, self.engine.unload_models, self._reporter)
        self._worker = Worker(self.queue, self._executor, self._hub.send, self.engine)

    @property
    def url(self) -> str:
        """Its base URL; the port is known once it has started."""
        name, port = self._address
        return f"http://{f'[{name}]' if ':' in name else name}:{port}"

    @property
    def login_url(self) -> str:
        """``url`` with the token in it, as clients take it."""
        return self.url if self._token is None else self.url.replace("://", f"://:{quote(self._token, safe='')}@", 1)

    def start(self) -> EngineServer:
        """Listen and return.

        Raises:
            RylaError: ``port_in_use``, or ``engine_cannot_listen`` for an address that is not this machine's.
        """
        self._socket = _listen(*self._address)
        self._address = (self._address[0], self._socket.getsockname()[1])
        self._worker.start()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="ryla-engine", daemon=True)
        self._thread.start()
        while not self._ready.wait(0.1):
            if not self._thread.is_alive():
                raise RylaError("engine_cannot_listen", f"The engine ended before it listened on {self.url}.")
        return self

    def stop(self) -> None:
        """Cancel the running job, close every connection and end both threads; safe to call twice."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self.queue.close()
        self._worker.join(STOP_SECONDS)
        if self._worker.is_alive():
            log.warning("The running job did not stop within %.0f s; it is left behind.", STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> EngineServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._hub.attach(self._loop)
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=1.0, auto_decompress=False)
        await runner.setup()
        assert self._socket is not None and runner.server is not None
        runner.server.request_handler = understood(runner.server.request_handler)
        accepting = asyncio.create_task(self._connections.serve(self._socket, runner.server))
        self._ready.set()
        await self._stop.wait()
        accepting.cancel()
        self._socket.close()
        self._hub.attach(None)
        await self._hub.close()
        await runner.cleanup()

    def _app(self) -> web.Application:
        guard = Guard(self._access, self.engine, self._reporter, self._connections)
        app = web.Application(middlewares=[guard.middleware])
        app[BODIES] = Bodies(self._connections)
        info = InfoRoutes(self.registry, self.engine.folders)
        both = [
            *self._jobs.routes(),
            *FileRoutes(self.files).routes(),
            *info.routes(),
            web.get("/ws", self._hub.handle),
        ]
        app.add_routes(both)
        app.add_routes([web.route(route.method, f"/api{route.path}", route.handler) for route in both])
        app.add_routes(self._jobs.api_routes())
        return app


def _folder_names(engine: EmbeddedEngine, settings: environment.Settings) -> dict[Path, str]:
    """What answers call the folders of this machine that messages may name."""
    named = (
        (engine.home, "$RYLA_HOME"),
        (settings.volume, "$RYLA_VOLUME"),
        (settings.comfyui, "$RYLA_COMFYUI"),
        (Path(__file__).parents[3], "ryla_nodes"),
    )
    known = {path: name for path, name in named if path is not None}
    for name, paths in engine.folders().paths.items():
        known |= {path: name for path in paths if not any(path.is_relative_to(root) for root in known)}
    return known


def _listen(host: str, port: int) -> socket.socket:
    family: Any = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RylaError("port_in_use", f"Port {port} on {host} is in use by another program.") from None
        raise RylaError("engine_cannot_listen", f"Listening on {host}:{port} failed: {error}.") from None
