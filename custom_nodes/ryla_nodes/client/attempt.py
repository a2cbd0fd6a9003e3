"""One attempt to run a job: one engine, one prompt id. Upload, check, run, download."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import RylaError
from ..workflows.bind import BoundPrompt
from .actions import Outcome, Signal, State
from .failures import Subject
from .guard import Guard
from .outputs import OutputGone, fetch
from .pictures import Picture
from .polling import Driver
from .pool import Member
from .progress import OnProgress, Phase, Tracker
from .protocol import HistoryEntry
from .state_machine import JobMachine
from .websocket import Wakeups


@dataclass(frozen=True)
class Submission:
    """Where and as what a prompt is about to be posted: enough to find the job again after a crash."""

    server: str
    prompt_id: str


OnSubmit = Callable[[Submission], None]


class Attempt:
    """``run`` gives the outcome; ``pictures`` and ``queued`` (seconds) hold the rest afterwards."""

    def __init__(
        self,
        member: Member,
        prompt: BoundPrompt,
        prompt_id: str,
        guard: Guard,
        *,
        on_progress: OnProgress | None,
        on_submit: OnSubmit | None,
        on_accepted: Callable[[], None],
    ) -> None:
        self.pictures: tuple[Picture, ...] = ()
        self.queued = 0.0
        self._member, self._prompt, self._prompt_id, self._guard = member, prompt, prompt_id, guard
        self._on_submit, self._on_accepted = on_submit, on_accepted
        self._tracker = Tracker(prompt.graph, member.engine.server, prompt_id, on_progress or _silent)
        self._driver: Driver | None = None

    def cancel(self) -> None:
        """Stop the job; call it after the guard's ``stop`` is set."""
        if self._driver is not None:
            self._driver.cancel()

    async def run(self, *, attach: bool) -> Outcome:
        """Run to the outcome; with ``attach`` the prompt was posted by an earlier process.

        Raises:
            RylaError: ``cancelled`` or ``timed_out`` before or after the engine had the job; ``unreadable_file``.
        """
        # The client id is the prompt's, so that a later process that takes the job up hears its events.
        engine = self._member.engine
        wakeups = Wakeups(engine.address, self._prompt_id, self._signal)
        try:
            if not attach:
                ready = wakeups.tried(engine.limits.socket)
                _, refusal = await asyncio.gather(ready, self._guard.run(self._prepare()))
                if refusal is not None:
                    return Outcome(State.FAILED, refusal, never_started=True)
            outcome = await self._drive(attach)
        finally:
            self._member.later(wakeups.stop())
        if outcome.state is State.SUCCEEDED and outcome.entry is not None:
            return await self._download(outcome, outcome.entry)
        return outcome

    async def _prepare(self) -> RylaError | None:
        """Upload the pictures and check the graph against the engine: its refusal, or None."""
        member = self._member
        try:
            for upload in self._prompt.uploads:
                name = await member.engine.upload(upload.path)
                self._prompt = self._prompt.with_image(upload.node_id, upload.input, name)
            await member.check(self._prompt.graph)
        except RylaError as error:
            if error.code == "unreadable_file":
                raise
            return error
        return None

    def _signal(self, signal: Signal) -> None:
        if self._driver is not None:
            self._driver.signal(signal)

    def _subject(self) -> Subject:
        return Subject(self._prompt_id, self._member.engine.server, self._prompt.graph, self._prompt.outputs)

    async def _drive(self, attach: bool) -> Outcome:
        engine, subject = self._member.engine, self._subject()
        machine = JobMachine(
            subject,
            now=time.monotonic(),
            deadline=self._guard.deadline,
            limits=engine.limits,
            expected=self._member.seconds.get(self._prompt.workflow),
            attach=attach,
        )
        self._driver = driver = Driver(
            machine,
            engine,
            subject,
            deadline=self._guard.deadline,
            tracker=self._tracker,
            on_submit=self._submitting,
            on_accepted=self._on_accepted,
        )
        if self._guard.stop.is_set():
            driver.cancel()
        outcome = await driver.run()
        self._driver = None
        self.queued = driver.queued
        return outcome

    def _submitting(self) -> None:
        if self._on_submit is not None:
            self._on_submit(Submission(self._member.engine.server, self._prompt_id))

    async def _download(self, outcome: Outcome, entry: HistoryEntry) -> Outcome:
        member, subject = self._member, self._subject()
        member.ran(self._prompt.workflow, self._prompt.wants, entry.execution_seconds)
        self._tracker.phase(Phase.FETCHING)
        try:
            # The job has succeeded: a cancellation comes too late.
            self.pictures = await self._guard.run(fetch(member.engine, subject, entry), stoppable=False)
        except OutputGone as gone:
            facts = {"server": subject.server, "prompt_id": subject.prompt_id, "filename": gone.filename}
            message = f"{subject.server} no longer has {gone.filename}, its output of {subject.node(gone.node_id)}."
            cached = gone.node_id in entry.cached_nodes
            return Outcome(State.FAILED, RylaError("output_gone", message, cached=cached, **facts), entry)
        except RylaError as error:
            if error.code in ("cancelled", "timed_out"):
                raise
            state = State.LOST if error.code == "server_gone" else State.FAILED
            return Outcome(state, error, entry, verified=False)
        return outcome


def _silent(_: object) -> None:
    return
