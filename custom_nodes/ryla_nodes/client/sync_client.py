"""The clients for programs without asyncio: an asyncio client on a thread of its own, and nothing besides."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import RylaError
from ..settings import Settings
from ..workflows.workflow import BoundPrompt, Workflow
from .async_client import DEFAULT_TIMEOUT, AsyncClient, BaseAsyncClient, EngineStatus, Runnable
from .job import Job, OnSubmit, Submission
from .limits import Limits
from .polling import OnProgress
from .results import Result
from .websocket import OnPreview

T = TypeVar("T")
A = TypeVar("A", bound=BaseAsyncClient)
S = TypeVar("S", bound="SyncClient[Any]")

_TICK = 0.25
"""Windows delivers Ctrl-C only between two waits."""


class SyncClient(Generic[A]):
    """Runs workflows; the methods and their errors are those of the asyncio client inside.

    Ctrl-C in a call cancels its jobs on their engines and waits for that; a second Ctrl-C leaves at once. Callbacks are
    called in the client's own thread.

    Args:
        asynchronous: the client inside; give its coroutines to ``call``.
        on_interrupt: called at the first Ctrl-C of a call.
    """

    def __init__(self, asynchronous: A, on_interrupt: Callable[[], None] | None = None) -> None:
        self._on_interrupt = on_interrupt
        self.asynchronous = asynchronous
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ryla-client", daemon=True)
        self._interruptions = 0
        self._thread.start()

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            # Between two calls: what was started is stopped all the same.
            self.call(self.asynchronous.stop_all())
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. Jobs that still go on are left to their engines."""
        if self._loop.is_closed():
            return
        self.call(self.asynchronous.aclose())
        self.call(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(
        self,
        workflow: Runnable,
        parameters: Mapping[str, object] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> Result:
        """See ``AsyncClient.run``."""
        job = self.start(workflow, parameters, timeout=timeout, on_progress=on_progress, on_preview=on_preview)
        return self.wait(job).required()

    def submit(
        self,
        workflow: Runnable,
        parameters: Mapping[str, object] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        on_progress: OnProgress | None = None,
        on_submit: OnSubmit | None = None,
        prompt_id: str = "",
    ) -> Job:
        """See ``AsyncClient.submit``."""
        submit = self.asynchronous.submit(
            workflow, parameters, timeout=timeout, on_progress=on_progress, on_submit=on_submit, prompt_id=prompt_id
        )
        return self.call(submit)

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
        """See ``AsyncClient.start``."""

        async def start() -> Job:
            return self.asynchronous.start(
                workflow,
                parameters,
                timeout=timeout,
                on_progress=on_progress,
                on_submit=on_submit,
                prompt_id=prompt_id,
                depth=depth,
                wait=wait,
                reruns=reruns,
                on_preview=on_preview,
            )

        return self.call(start())

    def attach(
        self,
        prompt: BoundPrompt,
        submission: Submission,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        on_progress: OnProgress | None = None,
        on_submit: OnSubmit | None = None,
    ) -> Job:
        """See ``AsyncClient.attach``."""

        async def attach() -> Job:
            return self.asynchronous.attach(
                prompt, submission, timeout=timeout, on_progress=on_progress, on_submit=on_submit
            )

        return self.call(attach())

    def wait(self, job: Job) -> Result:
        """See ``AsyncClient.wait``; Ctrl-C cancels the job."""
        return self.call(self.asynchronous.wait(job))

    def cancel(self, job: Job) -> Result:
        """See ``AsyncClient.cancel``."""
        return self.call(self.asynchronous.cancel(job))

    def map(
        self,
        workflow: str | Workflow,
        rows: Iterable[Mapping[str, object]],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        wait: float = 120.0,
        reruns: int = 2,
    ) -> Iterator[Result]:
        """See ``AsyncClient.map``. After a Ctrl-C it raises ``cancelled``."""
        results = self.asynchronous.map(workflow, rows, timeout=timeout, wait=wait, reruns=reruns)
        before = self._interruptions
        try:
            while (result := self.call(_following(results))) is not None:
                if self._interruptions > before:
                    raise RylaError("cancelled", "Cancelled; what had been started is stopped.")
                yield result
        finally:
            self.call(results.aclose())

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the ``asynchronous`` client in its thread, with this class's Ctrl-C.

        Raises:
            RylaError: ``cancel_unverified`` at the second Ctrl-C.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return _wait(future)
        except KeyboardInterrupt:
            self._interruptions += 1
            self._loop.call_soon_threadsafe(self.asynchronous.cancel_all)
        try:
            if self._on_interrupt is not None:
                self._on_interrupt()
            return _wait(future)
        except KeyboardInterrupt:
            raise self._left() from None

    def _left(self) -> RylaError:
        jobs = [f"{job.prompt_id} on {job.server}" for job in self.asynchronous.jobs if job.prompt_id]
        told = f"may still be running: {', '.join(jobs)}" if jobs else "nothing had reached an engine"
        return RylaError("cancel_unverified", f"Left at once; {told}.", jobs=jobs)


class Client(SyncClient[AsyncClient]):
    """Runs workflows on one or several engines: ``AsyncClient`` for programs without asyncio.

    with Client("http://127.0.0.1:8188") as client:
        client.run("flux-dev", {"prompt": "a red fox", "seed": 7}).save("fox.jpg")
    """

    def __init__(
        self,
        *servers: str,
        limits: Limits = Limits(),
        settings: Settings | None = None,
        on_interrupt: Callable[[], None] | None = None,
    ) -> None:
        """Take the arguments of ``AsyncClient``; ``on_interrupt`` is called at the first Ctrl-C of a call."""
        super().__init__(AsyncClient(*servers, limits=limits, settings=settings), on_interrupt)

    def engines(self) -> list[EngineStatus]:
        """See ``AsyncClient.engines``."""
        return self.call(self.asynchronous.engines())

    def bind(self, workflow: Runnable, parameters: Mapping[str, object] | None = None) -> BoundPrompt:
        """See ``AsyncClient.bind``."""
        return self.asynchronous.bind(workflow, parameters)


async def _following(results: AsyncIterator[Result]) -> Result | None:
    async for result in results:
        return result
    return None


async def _end_tasks() -> None:
    """Let go of what still goes on in the loop, so that it can be closed."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _wait(future: Future[T]) -> T:
    while True:
        try:
            return future.result(_TICK)
        except FutureTimeout:
            # In Python 3.11 the work's own TimeoutError is the same class.
            if future.done():
                raise
