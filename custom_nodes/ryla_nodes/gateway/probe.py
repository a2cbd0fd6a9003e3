"""Looking at one engine: whether it answers, works, and has what the workflows need."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..client import Limits
from ..client.address import Address
from ..client.api import EngineApi
from ..client.transport import CallFailed
from ..client.websocket import greets
from ..errors import RylaError
from ..workflows.graph import Graph
from ..workflows.validate import problems
from .cost import gpu_name
from .problems import redact

_SECONDS = 1.5
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
        replicas: how many engines run, of a cluster; None for one engine.
    """

    up: bool = False
    version: str = ""
    gpu: str = ""
    embedded: bool = False
    queued: int = 0
    lacks: tuple[Lack, ...] = ()
    inventory: Mapping[str, Any] | None = None
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    replicas: int | None = None


class Lookout(ABC):
    """Looks at whatever runs jobs again and again; ``sight`` is what it saw last.

    Args:
        server: its base URL, or what stands for it.
        graphs: the graphs of the enabled workflows by name.
        folders: the model folders to list.
    """

    def __init__(self, server: str, graphs: Mapping[str, Graph], folders: Iterable[str]) -> None:
        self.server, self.sight = server, Sight()
        self._graphs, self._folders = graphs, sorted({*folders, "loras"})
        self._classes = sorted({str(node["class_type"]) for graph in graphs.values() for node in graph.values()})

    @abstractmethod
    async def aclose(self) -> None:
        """Look no more."""

    @abstractmethod
    async def look(self) -> None:
        """Look once. Never raises for what is looked at."""

    def gpu_of(self, server: str) -> str:
        """The GPU of an engine; "" when it is not known here."""
        return self.sight.gpu if server == self.server else ""

    def lacks_of(self, workflow: str) -> list[Lack]:
        """What is lacking to run a workflow: node classes, and files that its graph names."""
        if self.sight.inventory is None:
            return []
        return [
            Lack("model" if fault.code == "missing_model" else "node", fault.message, fault.hint, workflow)
            for fault in problems(self._graphs[workflow], self.sight.inventory)
            if fault.severity == "error"
        ]


class Probe(Lookout):
    """Looks at one engine."""

    def __init__(self, server: str, graphs: Mapping[str, Graph], folders: Iterable[str]) -> None:
        self._address = Address.parse(server)
        super().__init__(self._address.base, graphs, folders)
        limits = Limits(connect=_SECONDS, answer=_SECONDS, submit=_INVENTORY_SECONDS)
        self._engine = EngineApi(self._address, limits)
        self._idle_since: float | None = None
        self._inventory_at = float("-inf")

    async def aclose(self) -> None:
        await self._engine.aclose()

    def watch(self, classes: Iterable[str], folders: Iterable[str]) -> None:
        """Also look at these node classes, and at these model folders."""
        self._classes = sorted({*self._classes, *classes})
        self._folders = sorted({*self._folders, *folders})

    async def look(self) -> None:
        try:
            stats = await self._engine.read("/system_stats")
            queue, log = await asyncio.gather(self._engine.read("/queue"), self._engine.worker_died())
            lacks = [*self._worker(queue, log.worker_died), *(await self._websocket())]
            if self._classes and time.monotonic() - self._inventory_at > _INVENTORY_SECONDS:
                await self._take_inventory()
            devices, version = stats["devices"], str(stats["system"].get("comfyui_version") or "?")
        except (CallFailed, RylaError, KeyError, TypeError, AttributeError) as error:
            self.sight = Sight(lacks=(self._unreachable(error),), gpu=self.sight.gpu)
            self._inventory_at = float("-inf")
            return
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

    @staticmethod
    def _unreachable(error: Exception) -> Lack:
        answered = not isinstance(error, CallFailed | RylaError) or str(error).startswith("the answer is")
        why = "what answers is not a ComfyUI" if answered else str(error)
        return Lack("engine", f"An engine does not answer: {redact(why)}.", "Start it, or take it out of --server.")

    def _worker(self, queue: Mapping[str, Any], died: bool) -> list[Lack]:
        """Whether anybody works on what waits."""
        idle = bool(queue["queue_pending"]) and not queue["queue_running"]
        now = time.monotonic()
        self._idle_since = (self._idle_since or now) if idle else None
        stuck = self._idle_since is not None and now - self._idle_since > _STUCK_SECONDS
        if stuck or died:
            message = "An engine answers, but its worker is dead: it takes jobs and runs none."
            return [Lack("worker", message, "Restart that engine; its log tells what ended the worker.")]
        return []

    async def _websocket(self) -> list[Lack]:
        """Whether a new websocket is greeted."""
        if await asyncio.to_thread(greets, self._address, self._engine.route, uuid.uuid4().hex, self._engine.limits):
            return []
        fix = "Let the proxy before the engine pass /ws, or restart the engine."
        return [Lack("websocket", "The websocket of an engine is dead: no progress, and slow results.", fix)]

    async def _take_inventory(self) -> None:
        found = await self._engine.object_info(self._classes)
        models: dict[str, tuple[str, ...]] = {}
        for folder in self._folders:
            # An engine that does not know the folder has nothing in it.
            with contextlib.suppress(RylaError):
                models[folder] = tuple(await self._engine.models(folder))
        self.sight.inventory, self.sight.models = found, models
        self._inventory_at = time.monotonic()


def _gpu(device: Mapping[str, Any]) -> str:
    return "CPU" if device.get("type") == "cpu" else gpu_name(str(device["name"]))
