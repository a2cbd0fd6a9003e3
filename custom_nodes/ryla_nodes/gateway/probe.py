"""Looking at one engine: whether it answers, works, and has what the workflows need."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from ..client.address import Address
from ..client.worker_log import tells_of_death, text_of
from ..workflows.schema import Graph
from ..workflows.validate import problems
from .cost import gpu_name

_SECONDS = 2.0
_STUCK_SECONDS = 2.5
_INVENTORY_SECONDS = 3.0


@dataclass(frozen=True)
class Lack:
    """One thing that keeps the gateway from being ready.

    Attributes:
        what: short and stable: ``engine``, ``worker``, ``websocket``, ``node``, ``model``, ``warm_up``, ``disk``.
        message: what exactly.
        fix: the command, or the step, that mends it.
        workflow: whose it is; "" when all suffer.
    """

    what: str
    message: str
    fix: str
    workflow: str = ""


@dataclass
class Sight:
    """What the last look at an engine found.

    Attributes:
        embedded: it is the embedded engine, whose small models stand in for missing ones.
        inventory: node class -> its ``/object_info``; None before it was asked.
        models: folder -> the names that the engine lists there.
    """

    up: bool = False
    version: str = ""
    gpu: str = ""
    embedded: bool = False
    queued: int = 0
    lacks: tuple[Lack, ...] = ()
    inventory: Mapping[str, Any] | None = None
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Probe:
    """Looks at one engine again and again; ``sight`` is what it saw last.

    Args:
        graphs: the graphs of the enabled workflows by name.
        folders: the model folders to list.
    """

    def __init__(self, server: str, graphs: Mapping[str, Graph], folders: Iterable[str]) -> None:
        self._address = Address.parse(server)
        self.server = self._address.base
        self._graphs, self._folders = graphs, sorted({*folders, "loras"})
        self._classes = sorted({str(node["class_type"]) for graph in graphs.values() for node in graph.values()})
        self._http = httpx.AsyncClient(
            base_url=self._address.base,
            headers=self._address.headers,
            trust_env=not self._address.loopback,
            timeout=_SECONDS,
        )
        self._idle_since: float | None = None
        self._inventory_at = float("-inf")
        self.sight = Sight()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def look(self) -> None:
        """Look once. Never raises for what the engine does."""
        try:
            stats = await self._read("/system_stats")
            queue, worker_log = await asyncio.gather(self._read("/queue"), self._log())
            lacks = [*self._worker(queue, worker_log), *(await self._websocket())]
            if time.monotonic() - self._inventory_at > _INVENTORY_SECONDS:
                await self._take_inventory()
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.sight = Sight(lacks=(self._unreachable(error),), gpu=self.sight.gpu)
            self._inventory_at = float("-inf")
            return
        system, devices = stats["system"], stats["devices"]
        version = str(system.get("comfyui_version") or "?")
        self.sight = Sight(
            up=True,
            version=version,
            gpu=_gpu(devices[0]) if devices else "",
            embedded="embedded" in version,
            queued=len(queue["queue_running"]) + len(queue["queue_pending"]),
            lacks=tuple(lacks),
            inventory=self.sight.inventory,
            models=self.sight.models,
        )

    async def _read(self, path: str) -> Any:
        response = await self._http.get(path)
        response.raise_for_status()
        return response.json()

    async def _log(self) -> str:
        """The engine's log; "" from one that shows none."""
        try:
            return text_of(await self._read("/internal/logs/raw"))
        except (httpx.HTTPStatusError, ValueError):
            return ""

    def _unreachable(self, error: Exception) -> Lack:
        why = type(error).__name__ if isinstance(error, httpx.HTTPError) else "what answers is not a ComfyUI"
        return Lack("engine", f"An engine does not answer ({why}).", "Start it, or take it out of --server.")

    def _worker(self, queue: Mapping[str, Any], worker_log: str) -> list[Lack]:
        """Whether anybody works on what waits."""
        idle = bool(queue["queue_pending"]) and not queue["queue_running"]
        now = time.monotonic()
        self._idle_since = (self._idle_since or now) if idle else None
        stuck = self._idle_since is not None and now - self._idle_since > _STUCK_SECONDS
        if stuck or tells_of_death(worker_log):
            message = "An engine answers, but its worker is dead: it takes jobs and runs none."
            return [Lack("worker", message, "Restart that engine; its log tells what ended the worker.")]
        return []

    async def _websocket(self) -> list[Lack]:
        """Whether a new websocket is greeted: an engine that is stuck sending to somebody greets nobody."""
        try:
            await asyncio.wait_for(self._greeting(), _SECONDS)
        except (OSError, WebSocketException, asyncio.TimeoutError, ValueError):
            fix = "Let the proxy before the engine pass /ws, or restart the engine."
            return [Lack("websocket", "The websocket of an engine is dead: no progress, and slow results.", fix)]
        return []

    async def _greeting(self) -> None:
        url = self._address.websocket(uuid.uuid4().hex)
        proxy: Literal[True] | None = None if self._address.loopback else True
        headers = self._address.headers
        async with connect(url, additional_headers=headers, compression=None, proxy=proxy, close_timeout=0.2) as socket:
            json.loads(await socket.recv())

    async def _take_inventory(self) -> None:
        paths = [f"/object_info/{quote(name, safe='')}" for name in self._classes]
        found: dict[str, Any] = {}
        for answer in await asyncio.gather(*(self._read(path) for path in paths)):
            found.update(answer if isinstance(answer, dict) else {})
        models: dict[str, tuple[str, ...]] = {}
        for folder in self._folders:
            with contextlib.suppress(httpx.HTTPStatusError):
                models[folder] = tuple(str(name).replace("\\", "/") for name in await self._read(f"/models/{folder}"))
        self.sight.inventory, self.sight.models = found, models
        self._inventory_at = time.monotonic()

    def lacks_of(self, workflow: str) -> list[Lack]:
        """What the engine lacks to run a workflow: node classes, and files that its graph names."""
        if self.sight.inventory is None:
            return []
        return [
            Lack("model" if fault.code == "missing_model" else "node", fault.message, fault.hint, workflow)
            for fault in problems(self._graphs[workflow], self.sight.inventory)
            if fault.severity == "error"
        ]


def _gpu(device: Mapping[str, Any]) -> str:
    return "CPU" if device.get("type") == "cpu" else gpu_name(str(device["name"]))
