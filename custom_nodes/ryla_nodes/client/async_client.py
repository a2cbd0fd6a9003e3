"""The client for asyncio programs. ``Client`` is the same for all others."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from .. import settings as environment
from ..errors import RylaError
from ..settings import Settings
from ..workflows.best_of import NAME as BEST_OF
from ..workflows.best_of import require_score
from ..workflows.graph import Graph, checked, title_of
from ..workflows.manifest import load, scored
from ..workflows.workflow import BoundPrompt, Output, Workflow, bind
from .job import NAME_OUTPUTS, EngineJob, Job, OnSubmit, Options, Submission
from .limits import Limits
from .polling import OnProgress
from .pool import Pool
from .results import Result
from .transport import EngineInfo
from .websocket import OnPreview

DEFAULT_TIMEOUT = 1800.0
_AHEAD = 4

Runnable = str | Workflow | BoundPrompt
C = TypeVar("C", bound="BaseAsyncClient")


class BaseAsyncClient(ABC):
    """Runs workflows.

    Attributes:
        jobs: those that go on.
        depth: how many jobs of a batch each server is given at once.
    """

    depth: int

    def __init__(self) -> None:
        self.jobs: set[Job] = set()

    @property
    @abstractmethod
    def servers(self) -> tuple[str, ...]:
        """The base URLs of those that run the jobs, without logins."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections. Jobs that still go on are left to their engines."""

    @abstractmethod
    async def versions(self) -> tuple[str, ...]:
        """The versions of the engines that answer, in their order; without a word from one it is left out."""

    @abstractmethod
    def _job(self, workflow: Runnable, parameters: Mapping[str, object] | None, options: Options) -> Job:
        """Begin a job.

        Raises:
            RylaError: what binding raises.
        """

    @abstractmethod
    async def _prompts(self, workflow: str | Workflow, rows: Iterable[Mapping[str, object]]) -> Sequence[BoundPrompt]:
        """The prompt of each row.

        Raises:
            RylaError: what binding raises.
        """

    async def __aenter__(self: C) -> C:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- one job ------------------------------------------------------------------------------------------------------

    async def run(
        self,
        workflow: Runnable,
        parameters: Mapping[str, object] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> Result:
        """Run a workflow and return its pictures. Cancelling this coroutine cancels the job on the engine.

        Args:
            workflow: a name, a loaded workflow, or a prompt that is bound already (then without ``parameters``).
            parameters: by name or alias; image parameters are paths of local files.
            timeout: the hard deadline, in seconds; the job is then cancelled on the engine.
            on_progress: called with each change, in the event loop.
            on_preview: called with the unfinished pictures that the engine sends, in the event loop; it may send none.

        Raises:
            RylaError: any failure; see docs/runner.md for the codes.
        """
        job = self.start(workflow, parameters, timeout=timeout, on_progress=on_progress, on_preview=on_preview)
        try:
            return (await job.result()).required()
        except asyncio.CancelledError:
            job.cancel()
            await job.result()
            raise

    async def submit(
        self,
        workflow: Runnable,
        parameters: Mapping[str, object] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        on_progress: OnProgress | None = None,
        on_submit: OnSubmit | None = None,
        prompt_id: str = "",
    ) -> Job:
        """Return as soon as an engine has the job; it goes on in the background.

        Args:
            on_submit: called with where and as what, right before each POST: for a journal that survives a crash.
                What it returns is awaited before the POST.
            prompt_id: a lowercase UUID to use for the first attempt; refused while another job of the engine has it.

        Raises:
            RylaError: any failure before the engine had it.
        """
        job = self.start(
            workflow, parameters, timeout=timeout, on_progress=on_progress, on_submit=on_submit, prompt_id=prompt_id
        )
        await job.accepted()
        if job.done:
            (await job.result()).required()
        return job

    def start(
        self,
        workflow: Runnable,
        parameters: Mapping[str, object] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        on_progress: OnProgress | None = None,
        on_submit: OnSubmit | None = None,
        prompt_id: str = "",
        depth: int | None = None,
        wait: float = 0.0,
        reruns: int = 0,
        on_preview: OnPreview | None = None,
    ) -> Job:
        """As ``submit``, but return at once.

        Args:
            depth: the most jobs of this client that an engine may have; the job waits for a place.
            wait: how many seconds to wait while no engine can be used. A job that waits also comes back to an engine
                that recovered.
            reruns: how often a job that its engine lost is run again.

        Raises:
            RylaError: what binding raises.
        """
        options = Options(timeout, on_progress, on_submit, prompt_id, depth, wait, reruns, on_preview=on_preview)
        return self._kept(self._job(workflow, parameters, options))

    def attach(
        self,
        prompt: BoundPrompt,
        submission: Submission,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        on_submit: OnSubmit | None = None,
    ) -> Job:
        """Take up a job that an earlier process submitted; ``on_submit`` as in ``submit``, for further attempts.

        It ends as LOST when the engine knows nothing of it, and as FAILED with ``invalid_server`` when that engine is
        none of this client's.
        """
        options = Options(timeout, on_progress, on_submit, attach=submission, on_preview=on_preview)
        return self._kept(self._job(prompt, None, options))

    def _kept(self, job: Job) -> Job:
        self.jobs.add(job)
        job.when_done(lambda: self.jobs.discard(job))
        return job

    async def wait(self, job: Job) -> Result:
        """The end of a job, whatever it is. Cancelling this coroutine leaves the job alone."""
        return await job.result()

    async def cancel(self, job: Job) -> Result:
        """Stop a job on its engine and return how it ended: it may have succeeded just before."""
        job.cancel()
        return await job.result()

    def cancel_all(self) -> None:
        """Stop every job of this client."""
        for job in tuple(self.jobs):
            job.cancel()

    async def stop_all(self) -> None:
        """Stop every job of this client and wait for that."""
        jobs = tuple(self.jobs)
        self.cancel_all()
        await asyncio.gather(*(job.result() for job in jobs))

    # --- many jobs ----------------------------------------------------------------------------------------------------

    async def map(
        self,
        workflow: str | Workflow,
        rows: Iterable[Mapping[str, object]],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        wait: float = 120.0,
        reruns: int = 2,
    ) -> AsyncGenerator[Result, None]:
        """Run a workflow once per row, on all engines at once; results come in the order of the rows.

        A row that fails gives a result with its ``error``; the others go on.

        Args:
            wait: how long to wait while no engine can be used, in seconds.
            reruns: how often a row whose engine lost it is run again.

        Raises:
            RylaError: what binding a row raises, before the first one runs.
        """
        waiting = deque(await self._prompts(workflow, rows))
        running: deque[Job] = deque()
        window = len(self.servers) * self.depth * _AHEAD
        try:
            while waiting or running:
                while waiting and len(running) < window:
                    prompt = waiting.popleft()
                    running.append(self.start(prompt, timeout=timeout, depth=self.depth, wait=wait, reruns=reruns))
                yield await running[0].result()
                running.popleft()
        finally:
            for job in running:
                job.cancel()


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
    values = parameters or {}
    if BEST_OF in values:
        require_score(loaded.name, loaded.parameters, lambda: scored(settings))
    return bind(loaded, values)


class BindingClient(BaseAsyncClient):
    """A client that knows the workflows itself, and gives bound prompts to whoever runs them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    @abstractmethod
    def _begin(self, prompt: BoundPrompt, options: Options) -> Job:
        """A job of one picture."""

    def _job(self, workflow: Runnable, parameters: Mapping[str, object] | None, options: Options) -> Job:
        prompt = self.bind(workflow, parameters)
        if prompt.best_of is None:
            return self._begin(prompt, options)
        from .best_of import BestOfJob  # Most jobs need none of it.

        return BestOfJob(self._begin, prompt, options)

    async def _prompts(self, workflow: str | Workflow, rows: Iterable[Mapping[str, object]]) -> Sequence[BoundPrompt]:
        loaded = load(workflow, self._settings) if isinstance(workflow, str) else workflow
        return [self.bind(loaded, row) for row in rows]

    def bind(self, workflow: Runnable, parameters: Mapping[str, object] | None = None) -> BoundPrompt:
        """See ``bound``."""
        return bound(workflow, parameters, self._settings)


class AsyncClient(BindingClient):
    """Runs workflows on one or several engines.

    Args:
        servers: base URLs; without any those of ``RYLA_SERVER``, else http://127.0.0.1:8188.
        limits: the client's patience.
        settings: where workflows are looked for; the environment's when None.
    """

    depth = 2

    def __init__(self, *servers: str, limits: Limits = Limits(), settings: Settings | None = None) -> None:
        super().__init__(settings or environment.load())
        self._pool = Pool(servers or self._settings.servers or (DEFAULT_SERVER,), limits, self._settings)

    @property
    def servers(self) -> tuple[str, ...]:
        """The engines' base URLs, without logins."""
        return tuple(member.engine.server for member in self._pool.members)

    async def aclose(self) -> None:
        """Close the connections. Jobs that still go on are left to their engines."""
        await self._pool.aclose()

    def _begin(self, prompt: BoundPrompt, options: Options) -> Job:
        return EngineJob(self._pool, prompt, options)

    # --- engines ------------------------------------------------------------------------------------------------------

    async def engines(self) -> list[EngineStatus]:
        """Ask every engine who it is and how long its queue is."""
        return list(await asyncio.gather(*(self._status(index) for index in range(len(self._pool.members)))))

    async def versions(self) -> tuple[str, ...]:
        return tuple(status.info.version for status in await self.engines() if status.info is not None)

    async def _status(self, index: int) -> EngineStatus:
        engine = self._pool.members[index].engine
        try:
            info = await engine.info()
            return EngineStatus(engine.server, info, await engine.queue_length(), None)
        except RylaError as error:
            return EngineStatus(engine.server, None, None, error)
