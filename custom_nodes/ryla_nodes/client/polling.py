"""Drives the job state machine against one engine, one call at a time, and tells how far the job is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

from ..errors import RylaError
from ..workflows.graph import Graph
from .api import EngineApi
from .failures import Subject
from .limits import Lifetime
from .protocol import (
    Accepted,
    Answer,
    Ask,
    CancelAnswer,
    Event,
    LogAnswer,
    LookFailed,
    Outcome,
    Signal,
    Sleep,
    Unclear,
)
from .state_machine import JobMachine

T = TypeVar("T")

_SUBMIT_FINISHES_IN = 2.0
_ENDING_CALL = 2.0
_ABANDONED = "given up after the cancellation"


class Phase(Enum):
    """The part of its life that a job is in."""

    PREPARING = "preparing"
    QUEUED = "queued"
    RUNNING = "running"
    FETCHING = "fetching"


@dataclass(frozen=True)
class Progress:
    """A snapshot.

    Attributes:
        ahead: how many jobs are before this one in the engine's queue; None when unknown.
        node: title (or class) of the node that runs.
        step, steps: the node's own count, as (12, 20); (0, 0) when it counts nothing.
        nodes_done, nodes_total: how far the graph is.
    """

    phase: Phase
    server: str = ""
    prompt_id: str = ""
    ahead: int | None = None
    node: str = ""
    step: int = 0
    steps: int = 0
    nodes_done: int = 0
    nodes_total: int = 0


OnProgress = Callable[[Progress], None]


class Tracker:
    """Turns events and the machine's state into snapshots, and reports those that differ from the last."""

    def __init__(self, graph: Graph, server: str, prompt_id: str, report: OnProgress | None) -> None:
        self._graph, self._report = graph, report
        self._done: set[str] = set()
        self._current: str | None = None
        self._shown = Progress(Phase.PREPARING, server, prompt_id, nodes_total=len(graph))

    def event(self, event: Event) -> None:
        """Take a websocket event of this job."""
        self._done.update(event.cached)
        if event.node is not None:
            self._begin(event.node)
        elif event.step is not None:
            self._show(replace(self._shown, step=int(event.step.done), steps=int(event.step.total)))

    def state(self, machine: JobMachine) -> None:
        """Take what the machine knows."""
        if machine.running:
            self._show(replace(self._shown, phase=Phase.RUNNING, ahead=None))
        elif machine.position is not None:
            self._show(replace(self._shown, phase=Phase.QUEUED, ahead=machine.position))

    def phase(self, phase: Phase) -> None:
        """Say which part begins."""
        self._show(replace(self._shown, phase=phase))

    def _begin(self, node_id: str) -> None:
        if self._current is not None:
            self._done.add(self._current)
        self._current = node_id
        node = self._graph.get(node_id, {})
        title = node.get("_meta", {}).get("title") or node.get("class_type") or node_id
        done = len(self._done & self._graph.keys())
        self._show(replace(self._shown, phase=Phase.RUNNING, node=title, step=0, steps=0, nodes_done=done))

    def _show(self, progress: Progress) -> None:
        if progress != self._shown:
            self._shown = progress
            if self._report is not None:
                self._report(progress)


class Guard:
    """Ends a job's work on our side: lets go of what it waits for when it is cancelled or at its deadline.

    Attributes:
        lifetime: the deadline and the cancellation, for the state machine.
    """

    def __init__(self, timeout: float) -> None:
        self.lifetime = Lifetime(timeout)
        self._stop = asyncio.Event()
        self._news = asyncio.Event()

    def cancel(self) -> None:
        """The user stops the job: everything that waits here hears of it."""
        self.lifetime.cancelled = True
        self._stop.set()
        self._news.set()

    def wake(self) -> None:
        """End the present or the next ``sleep``."""
        self._news.set()

    async def sleep(self, until: float) -> None:
        """Wait for news, no longer than until this time of ``time.monotonic``."""
        try:
            await asyncio.wait_for(self._news.wait(), max(0.0, until - time.monotonic()))
        except asyncio.TimeoutError:
            return
        self._news.clear()

    async def wait(self, work: asyncio.Future[Any], *, least: float = 0.0, stoppable: bool = True) -> None:
        """Return when ``work`` is done, at the deadline (after ``least`` seconds, though), or at a cancellation."""
        stop = asyncio.ensure_future(self._stop.wait())
        left = max(least, self.lifetime.deadline - time.monotonic())
        try:
            waited = {work, stop} if stoppable else {work}
            limit = left if left != float("inf") else None
            await asyncio.wait(waited, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def run(self, work: Coroutine[Any, Any, T], *, stoppable: bool = True) -> T:
        """The work's own result.

        Args:
            stoppable: False for what remains to be done when it is too late to cancel.

        Raises:
            RylaError: ``cancelled`` or ``timed_out``; the work was then given up.
        """
        task = asyncio.ensure_future(work)
        try:
            await self.wait(task, stoppable=stoppable)
            if task.done():
                return task.result()
        finally:
            task.cancel()
        if stoppable and self.lifetime.cancelled:
            raise RylaError("cancelled", "Cancelled; nothing of the job is on an engine.")
        seconds = self.lifetime.timeout
        raise RylaError("timed_out", f"The job passed its deadline of {seconds:.0f} s while files were moved.")


class Driver:
    """One machine, one engine. ``run`` returns the outcome; ``signal`` may be called meanwhile."""

    def __init__(
        self,
        machine: JobMachine,
        engine: EngineApi,
        subject: Subject,
        guard: Guard,
        tracker: Tracker,
        *,
        on_submit: Callable[[], Awaitable[None]],
        on_accepted: Callable[[], None],
    ) -> None:
        self._machine, self._engine, self._subject = machine, engine, subject
        self._guard, self._tracker = guard, tracker
        self._on_submit, self._on_accepted = on_submit, on_accepted
        self._accepted_at: float | None = None
        self._running_at: float | None = None

    @property
    def queued(self) -> float:
        """Seconds from the engine's acceptance to the first sign that it worked on the job; 0 without one."""
        if self._accepted_at is None or self._running_at is None:
            return 0.0
        return max(0.0, self._running_at - self._accepted_at)

    def signal(self, signal: Signal) -> None:
        """Take a websocket signal; one that comes too late is ignored."""
        if self._machine.outcome is not None:
            return
        self._machine.feed(signal, time.monotonic())
        if isinstance(signal, Event) and signal.prompt_id == self._subject.prompt_id:
            self._tracker.event(signal)
        self._guard.wake()

    async def run(self) -> Outcome:
        """Drive the machine to its end."""
        while True:
            now = time.monotonic()
            action = self._machine.next(now)
            self._note(now)
            if isinstance(action, Outcome):
                return action
            if isinstance(action, Sleep):
                await self._guard.sleep(action.until)
                continue
            answer = await self._carry_out(action)
            if isinstance(answer, Accepted):
                self._accept()
            self._machine.feed(answer, time.monotonic())

    def _note(self, now: float) -> None:
        if self._machine.running and self._running_at is None:
            self._running_at = now
        if self._machine.running or self._machine.position is not None:
            self._accept()
        self._tracker.state(self._machine)

    def _accept(self) -> None:
        if self._accepted_at is None:
            self._accepted_at = time.monotonic()
            self._on_accepted()

    async def _carry_out(self, ask: Ask) -> Answer:
        """Make the call, but let go of it at the deadline and at a cancellation: what it did is found out by id."""
        call = asyncio.ensure_future(self._call(ask))
        try:
            if self._guard.lifetime.cancelled:
                await asyncio.wait({call}, timeout=_ENDING_CALL)
            else:
                await self._guard.wait(call, least=_ENDING_CALL)
            if not call.done() and ask is Ask.SUBMIT:
                await asyncio.wait({call}, timeout=_SUBMIT_FINISHES_IN)
            return call.result() if call.done() else _abandoned(ask)
        finally:
            call.cancel()

    async def _submit(self) -> Answer:
        await self._on_submit()
        return await self._engine.submit(self._subject)

    def _call(self, ask: Ask) -> Coroutine[Any, Any, Answer]:
        engine, prompt_id = self._engine, self._subject.prompt_id
        if ask is Ask.SUBMIT:
            return self._submit()
        if ask is Ask.QUEUE:
            return engine.queue()
        if ask is Ask.HISTORY:
            return engine.history(prompt_id)
        if ask is Ask.CANCEL:
            return engine.cancel(prompt_id)
        if ask is Ask.DEQUEUE:
            return engine.dequeue(prompt_id)
        if ask is Ask.INTERRUPT:
            return engine.interrupt(prompt_id)
        return engine.worker_died()


def _abandoned(ask: Ask) -> Answer:
    if ask is Ask.SUBMIT:
        return Unclear(_ABANDONED)
    if ask in (Ask.QUEUE, Ask.HISTORY):
        return LookFailed(_ABANDONED)
    return LogAnswer(False) if ask is Ask.LOG else CancelAnswer.FAILED
