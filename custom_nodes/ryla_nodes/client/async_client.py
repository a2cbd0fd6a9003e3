"""The client for asyncio programs. ``Client`` is the same for all others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import settings as environment
from ..errors import RylaError
from ..settings import Settings
from ..workflows.graph import Graph, checked, title_of
from ..workflows.library import load
from ..workflows.workflow import BoundPrompt, Output, Workflow, bind
from .base_client import BaseAsyncClient, Runnable
from .engine_info import EngineInfo
from .engine_job import NAME_OUTPUTS, EngineJob
from .job import Job, Options
from .limits import Limits
from .pool import Pool

DEFAULT_SERVER = "http://127.0.0.1:8188"


@dataclass(frozen=True)
class EngineStatus:
    """One engine of the client now: ``info`` and ``queued`` when it answers, else ``error``."""

    server: str
    info: EngineInfo | None
    queued: int | None
    error: RylaError | None


def from_graph(graph: Graph, outputs: Sequence[str], *, name: str = "graph") -> BoundPrompt:
    """A prompt of any graph in API format; ``outputs`` are the ids of the nodes whose pictures are wanted.

    Raises:
        RylaError: ``invalid_graph`` for what is no graph in API format, what JSON cannot say, and ids that it lacks.
    """
    checked(graph)
    ids = [outputs] if isinstance(outputs, str) else list(outputs)
    absent = [key for key in ids if key not in graph]
    if absent:
        message = f"The graph has no node {absent[0]!r}, which is named as an output; it has {', '.join(graph)}."
        raise RylaError("invalid_graph", message, hint=NAME_OUTPUTS)
    declared = tuple(Output(title_of(graph[key]) or key, key, "image") for key in ids)
    return BoundPrompt(name, graph, {}, None, (), declared, frozenset({f"workflow:{name}"}))


def bound(workflow: Runnable, parameters: Mapping[str, object] | None, settings: Settings) -> BoundPrompt:
    """The prompt of a workflow with these parameters; a bound prompt itself.

    Raises:
        RylaError: ``unknown_workflow``, ``unknown_parameter``, ``missing_parameter``, ``invalid_parameter``.
    """
    if isinstance(workflow, BoundPrompt):
        return workflow
    loaded = load(workflow, settings) if isinstance(workflow, str) else workflow
    return bind(loaded, parameters or {})


class AsyncClient(BaseAsyncClient):
    """Runs workflows on one or several engines.

    Args:
        servers: base URLs; without any those of ``RYLA_SERVER``, else http://127.0.0.1:8188.
        limits: the client's patience.
        settings: where workflows are looked for; the environment's when None.
    """

    depth = 2

    def __init__(self, *servers: str, limits: Limits = Limits(), settings: Settings | None = None) -> None:
        super().__init__()
        self._settings = settings or environment.load()
        self._pool = Pool(servers or self._settings.servers or (DEFAULT_SERVER,), limits, self._settings)

    @property
    def servers(self) -> tuple[str, ...]:
        """The engines' base URLs, without logins."""
        return tuple(member.engine.server for member in self._pool.members)

    async def aclose(self) -> None:
        """Close the connections. Jobs that still go on are left to their engines."""
        await self._pool.aclose()

    def _job(self, workflow: Runnable, parameters: Mapping[str, object] | None, options: Options) -> Job:
        return EngineJob(self._pool, self.bind(workflow, parameters), options)

    async def _prompts(self, workflow: str | Workflow, rows: Iterable[Mapping[str, object]]) -> Sequence[BoundPrompt]:
        loaded = load(workflow, self._settings) if isinstance(workflow, str) else workflow
        return [self.bind(loaded, row) for row in rows]

    def bind(self, workflow: Runnable, parameters: Mapping[str, object] | None = None) -> BoundPrompt:
        """See ``bound``."""
        return bound(workflow, parameters, self._settings)

    # --- engines ------------------------------------------------------------------------------------------------------

    async def engines(self) -> list[EngineStatus]:
        """Ask every engine who it is and how long its queue is."""
        return list(await asyncio.gather(*(self._status(index) for index in range(len(self._pool.members)))))

    async def _status(self, index: int) -> EngineStatus:
        engine = self._pool.members[index].engine
        try:
            info = await engine.info()
            return EngineStatus(engine.server, info, await engine.queue_length(), None)
        except RylaError as error:
            return EngineStatus(engine.server, None, None, error)
