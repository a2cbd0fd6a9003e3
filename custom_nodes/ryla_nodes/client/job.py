"""One job on engines, from its bound prompt to its result: choose one, try, and retry what may be retried."""

from __future__ import annotations

import asyncio
import copy
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from ..errors import RylaError
from ..workflows.workflow import BoundPrompt
from .failures import FORGOTTEN, Subject
from .polling import Driver, Guard, OnProgress, Phase, Tracker
from .pool import Member, Pool
from .protocol import HistoryEntry, Outcome, State
from .results import Picture, Result, Timings, fetch
from .state_machine import JobMachine
from .websocket import OnPreview, Wakeups

STATES = {"cancelled": State.CANCELLED, "timed_out": State.TIMED_OUT}
"""How a job ends with an error of its own user's making; with all others it failed."""


@dataclass(frozen=True)
class Submission:
    """Where and as what a prompt is about to be posted: enough to find the job again after a crash.

    At a gateway ``prompt_id`` is the job's Idempotency-Key. ``nonce`` tells this submit from another one under the same
    id; "" when it is not known.
    """

    server: str
    prompt_id: str
    nonce: str = ""


OnSubmit = Callable[[Submission], Awaitable[None] | None]


@dataclass(frozen=True)
class Options:
    """How to run one job.

    Attributes:
        timeout: the hard deadline, in seconds from the moment that the job has an engine.
        on_progress: called with each change, in the client's event loop: be quick.
        on_submit: called right before each POST that may start the job; what it returns is awaited first.
        prompt_id: the id of the first attempt; random when empty.
        depth, wait: see ``Pool.lease``. With a ``wait`` a job also comes back to an engine that recovered.
        reruns: how often a job that its engine lost is run again.
        attach: a submission of an earlier process to take up; nothing is posted.
        on_preview: called with the unfinished pictures that the engine sends; it may send none.
    """

    timeout: float
    on_progress: OnProgress | None = None
    on_submit: OnSubmit | None = None
    prompt_id: str = ""
    depth: int | None = None
    wait: float = 0.0
    reruns: int = 0
    attach: Submission | None = None
    on_preview: OnPreview | None = None


class Job(ABC):
    """A job that goes on in the background.

    Attributes:
        prompt: what was asked.
        server, prompt_id: those of the current attempt; "" before the first.
    """

    def __init__(self, prompt: BoundPrompt, options: Options) -> None:
        self.prompt = prompt
        self.server = options.attach.server if options.attach else ""
        self.prompt_id = options.attach.prompt_id if options.attach else options.prompt_id
        self._options = options
        self._guard = Guard(options.timeout)
        self._began = time.monotonic()
        self._accepted = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    @abstractmethod
    async def _run(self) -> Result:
        """Run it to its end, whatever that is."""

    @property
    def done(self) -> bool:
        return self._task.done()

    def cancel(self) -> None:
        """Stop it, on the engine too; ``result`` tells what came of it."""
        self._guard.cancel()

    def when_done(self, call: Callable[[], None]) -> None:
        """Call ``call`` in the event loop when the job has ended."""
        self._task.add_done_callback(lambda _: call())

    async def accepted(self) -> None:
        """Return once an engine has the job's current attempt, or it ended before that."""
        waiter = asyncio.ensure_future(self._accepted.wait())
        await asyncio.wait({waiter, self._task}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()

    async def result(self) -> Result:
        """Wait for the end. Cancelling this wait does not cancel the job."""
        return await asyncio.shield(self._task)

    def _tell_seed(self, error: RylaError | None) -> None:
        """A random seed is known to nobody else: without it the job could not be run again."""
        seed = self.prompt.seed
        if error is not None and seed is not None:
            error.details["seed"] = seed
            error.hint = error.hint.replace("the same --seed", f"--seed {seed}")


_NOT_AGAIN = ("invalid_graph", "request_too_large", "zombie_worker")
_MOST_ATTEMPTS = 8
NAME_OUTPUTS = "Name the ids of the nodes that save pictures, such as ['9']."


class EngineJob(Job):
    """A job on the engines of a pool."""

    def __init__(self, pool: Pool, prompt: BoundPrompt, options: Options) -> None:
        self._pool, self._attach = pool, options.attach
        self._to_run = prompt
        self._attempts = 0
        self._attempt: _Attempt | None = None
        super().__init__(prompt, options)

    async def _run(self) -> Result:
        try:
            if not self.prompt.outputs:
                message = f"{self.prompt.workflow} declares no output that is a picture."
                raise RylaError("invalid_graph", message, hint=NAME_OUTPUTS)
            return await self._attempts_until_final()
        except RylaError as error:
            return self._result(Outcome(STATES.get(error.code, State.FAILED), error))

    async def _attempts_until_final(self) -> Result:
        retries, reruns = {"gpu_oom", "output_gone"}, self._options.reruns
        unfit: list[Member] = []
        member = await self._lease(unfit)
        self._guard.lifetime.begin(time.monotonic())
        try:
            while True:
                outcome = await self._once(member)
                error = outcome.error
                if error is None or self._guard.lifetime.cancelled:
                    return self._result(outcome)
                if error.code in retries and await self._retry(error, member):
                    retries.remove(error.code)
                    continue
                if error.entry.exit_status == 4 and error.code not in FORGOTTEN:
                    self._pool.set_aside(member, error)
                lost = outcome.state is State.LOST and reruns > 0
                if self._attempts == _MOST_ATTEMPTS or not (lost or outcome.never_started):
                    return self._result(outcome)
                reruns -= lost
                # What the engine lacks, and these, will not change with time: the job does not go back there.
                lasting = error.code in _NOT_AGAIN or error.entry.exit_status == 3
                if not lost and (lasting or not self._options.wait):
                    unfit.append(member)
                following = await self._another(unfit, error)
                if following is None:
                    return self._result(outcome)
                await self._pool.release(member)
                member = following
        finally:
            await self._pool.release(member)

    async def _lease(self, unfit: list[Member]) -> Member:
        options = self._options
        if self._attach is not None:
            return self._pool.take(self._attach.server)
        lease = self._pool.lease(self.prompt.wants, exclude=unfit, depth=options.depth, wait=options.wait)
        return await self._guard.run(lease)

    async def _another(self, unfit: list[Member], error: RylaError) -> Member | None:
        """An engine to move the job to; None when there is none, and the error stays."""
        if not self._pool.others(unfit):
            return None
        try:
            return await self._lease(unfit)
        except RylaError as failure:
            if failure.code in STATES:
                raise
            return None

    async def _once(self, member: Member) -> Outcome:
        attach, self._attach = self._attach, None
        self._attempts += 1
        self._accepted.clear()
        self.server = member.engine.server
        given = attach is None and self._attempts == 1 and bool(self._options.prompt_id)
        if attach is None and not given:
            self.prompt_id = str(uuid.uuid4())
        nonce = attach.nonce if attach is not None else uuid.uuid4().hex
        submission = Submission(self.server, self.prompt_id, nonce)
        self._attempt = _Attempt(member, self._to_run, submission, self._guard, self._options, self._accepted.set)
        return await self._attempt.run(attach=attach is not None, given=given)

    async def _retry(self, error: RylaError, member: Member) -> bool:
        """Prepare a second attempt on the same engine; False when it makes no sense."""
        if error.code == "gpu_oom":
            await self._guard.run(member.engine.free_memory())
            return True
        graph = copy.deepcopy(self._to_run.graph)
        inputs = [graph[output.node_id]["inputs"] for output in self._to_run.outputs]
        if not error.details["cached"] or not all(isinstance(node.get("filename_prefix"), str) for node in inputs):
            return False
        # A fresh prefix makes the output node run again; everything before it stays cached.
        for node in inputs:
            node["filename_prefix"] = f"{node['filename_prefix']}-{uuid.uuid4().hex[:8]}"
        self._to_run = replace(self._to_run, graph=graph)
        return True

    def _result(self, outcome: Outcome) -> Result:
        entry, attempt, seed = outcome.entry, self._attempt, self.prompt.seed
        self._tell_seed(outcome.error)
        pictures: tuple[Picture, ...] = attempt.pictures if attempt is not None and outcome.error is None else ()
        cached = set(entry.cached_nodes) if entry is not None else set()
        return Result(
            state=outcome.state,
            error=outcome.error,
            workflow=self.prompt.workflow,
            parameters=self.prompt.parameters,
            seed=seed,
            server=self.server,
            prompt_id=self.prompt_id,
            pictures=pictures,
            outputs=entry.outputs if entry is not None else {},
            timings=Timings(
                queued=attempt.queued if attempt is not None else 0.0,
                execution=entry.execution_seconds if entry is not None else None,
                total=time.monotonic() - self._began,
            ),
            cached=any(output.node_id in cached for output in self.prompt.outputs),
            attempts=self._attempts,
            warnings=outcome.warnings,
            face_similarity=self._similarity(entry),
        )

    def _similarity(self, entry: HistoryEntry | None) -> float | None:
        if entry is None or not self.prompt.score:
            return None
        from .scores import similarity  # Most jobs have no score.

        return similarity(entry.outputs, self.prompt.score)


class _Attempt:
    """One engine, one prompt id: upload, check, run, download.

    Attributes:
        pictures, queued: what it made, and its seconds in the engine's queue, after ``run``.
    """

    def __init__(
        self,
        member: Member,
        prompt: BoundPrompt,
        submission: Submission,
        guard: Guard,
        options: Options,
        on_accepted: Callable[[], None],
    ) -> None:
        self.pictures: tuple[Picture, ...] = ()
        self.queued = 0.0
        self._member, self._prompt, self._guard = member, prompt, guard
        self._submission = submission
        self._earlier: HistoryEntry | None = None
        self._warning = ""
        self._on_submit, self._on_accepted, self._on_preview = options.on_submit, on_accepted, options.on_preview
        self._tracker = Tracker(prompt.graph, submission.server, submission.prompt_id, options.on_progress)

    async def run(self, *, attach: bool, given: bool) -> Outcome:
        """Run to the outcome.

        Args:
            attach: the prompt was posted by an earlier process.
            given: the id is the caller's own, so the engine may know it from another job.

        Raises:
            RylaError: ``cancelled`` or ``timed_out`` before or after the engine had the job; ``unreadable_file``.
        """
        # The client id is the prompt's, so that a later process that takes the job up hears its events.
        engine = self._member.engine
        wakeups = Wakeups(
            engine.address, engine.route, self._submission.prompt_id, engine.limits, on_preview=self._on_preview
        )
        try:
            if not attach:
                ready = wakeups.tried(engine.limits.socket)
                _, refusal = await asyncio.gather(ready, self._guard.run(self._prepare(given)))
                if refusal is not None:
                    return Outcome(State.FAILED, refusal, never_started=True)
            outcome = await self._drive(wakeups, attach)
        finally:
            wakeups.stop()
            self._member.later(wakeups.closed())
        if self._warning:
            outcome = replace(outcome, warnings=(self._warning, *outcome.warnings))
        if outcome.state is State.SUCCEEDED and outcome.entry is not None:
            return await self._download(outcome, outcome.entry)
        return outcome

    async def _prepare(self, given: bool) -> RylaError | None:
        """Upload the pictures and check the graph against the engine: its refusal, or None."""
        member = self._member
        try:
            if given:
                self._earlier = await member.engine.earlier(self._submission.prompt_id)
            for upload in self._prompt.uploads:
                name = await member.engine.upload(upload.path, upload.sha256)
                self._prompt = self._prompt.with_image(upload.node_id, upload.input, name)
            self._warning = await member.check(self._prompt.graph)
        except RylaError as error:
            if error.code in ("unreadable_file", "input_changed", "prompt_id_in_use"):
                raise
            return error
        return None

    def _subject(self) -> Subject:
        where = self._submission
        return Subject(where.prompt_id, where.server, self._prompt.graph, self._prompt.outputs, where.nonce)

    async def _drive(self, wakeups: Wakeups, attach: bool) -> Outcome:
        engine, subject = self._member.engine, self._subject()
        machine = JobMachine(
            subject,
            self._guard.lifetime,
            now=time.monotonic(),
            limits=engine.limits,
            expected=self._member.seconds.get(self._prompt.workflow),
            attach=attach,
            earlier=self._earlier,
        )
        driver = Driver(
            machine,
            engine,
            subject,
            self._guard,
            self._tracker,
            on_submit=self._submitting,
            on_accepted=self._on_accepted,
        )
        wakeups.deliver_to(driver.signal)
        outcome = await driver.run()
        self.queued = driver.queued
        return outcome

    async def _submitting(self) -> None:
        noted = self._on_submit(self._submission) if self._on_submit is not None else None
        if noted is not None:
            await noted

    async def _download(self, outcome: Outcome, entry: HistoryEntry) -> Outcome:
        member = self._member
        member.ran(self._prompt.workflow, self._prompt.wants, entry.execution_seconds)
        self._tracker.phase(Phase.FETCHING)
        try:
            # The job has succeeded: a cancellation comes too late.
            self.pictures = await self._guard.run(fetch(member.engine, self._subject(), entry), stoppable=False)
        except RylaError as error:
            if error.code == "timed_out":
                raise
            state = State.LOST if error.code == "server_gone" else State.FAILED
            return Outcome(state, error, entry)
        return outcome
