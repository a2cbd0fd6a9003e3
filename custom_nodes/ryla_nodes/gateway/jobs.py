"""Every job from its acceptance to its end, once: stored before anything runs, taken up again after a crash."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import RylaError
from ..workflows.workflow import BoundPrompt, Workflow
from . import traces
from .backend import Client
from .elsewhere import Elsewhere
from .events import EventLog
from .found import Found, same, unknown
from .job import JobSpec, LiveJob, Outcome
from .job_files import JobFiles, JobMoved
from .line import Line
from .metrics import Metrics
from .options import Options, Token
from .problems import described
from .results import Results
from .runner import Runner
from .store import JobStore, Record
from .uploads import Uploads

log = logging.getLogger(__name__)

OnEnd = Callable[[str, JobSpec, Outcome], Awaitable[None]]

_REMEMBERED = 512
_AT_THE_DOOR = 4
_LATEST = 300
_CANCEL_SECONDS = 20.0
_GIVE_UP_SECONDS = 5.0


class Jobs:
    """The jobs of one gateway. Belongs to one event loop.

    Args:
        workflows: the enabled ones by name.
        gpu_of: the GPU of the engine at a base URL; "" when it is not known.
        places: how many jobs may be with the engines at once.
        files: those of the jobs.
        inputs: the input folders of the gateway's own engines.

    Attributes:
        door: held while a job is bound and accepted.
    """

    def __init__(
        self,
        options: Options,
        client: Client,
        workflows: Mapping[str, Workflow],
        metrics: Metrics,
        gpu_of: Callable[[str], str],
        places: int,
        files: JobFiles,
        inputs: Sequence[Path] = (),
    ) -> None:
        self.files = files
        self.results = Results(files)
        self.uploads = Uploads(options.state / "uploads", options.limits, inputs)
        self.door = asyncio.Semaphore(_AT_THE_DOOR)
        self.draining = False
        self._limits, self._metrics = options.limits, metrics
        self._line = Line(places, self._moved)
        self._runner = Runner(options, client, workflows, self.results, self.uploads, self._line, gpu_of, self._bring)
        self._live: dict[str, LiveJob] = {}
        self._ended: OrderedDict[str, LiveJob] = OrderedDict()
        self._of: Counter[str] = Counter()
        self._epoch = secrets.token_hex(4)
        self._seconds = 1.0
        self.store: JobStore
        self.elsewhere: Elsewhere
        self.on_end: OnEnd

    # --- taking ----------------------------------------------------------------------------------------------------

    async def accept(
        self, job_id: str, spec: JobSpec, prompt: BoundPrompt, token: Token | None, *, keep: bool
    ) -> Found:
        """Store a job and begin it; the one that is there already when its key was used before for the same request.

        Raises:
            RylaError: ``idempotency_conflict``, ``queue_full``, ``too_many_jobs``, ``shutting_down``, and what the
                store raises.
        """
        known = self._live.get(job_id) or self._ended.get(job_id)
        if known is not None:
            return same(Found(job_id, known.spec, known, None), spec)
        self._admit(token)
        job = self._enter(job_id, spec, keep)
        job.prompt = prompt
        try:
            await self.elsewhere.share(job_id, spec)
            fresh = await self.store.start("job", job_id, spec.record())
        except RylaError as error:
            job.ending = Outcome("failed", time.time(), described(error))
            self._leave(job)
            raise
        if fresh:
            return Found(job_id, spec, job, None)
        self._drop(job)
        found = await self.find(job_id, spec.owner)
        return same(found, spec)

    def _admit(self, token: Token | None) -> None:
        if self.draining:
            raise RylaError("shutting_down", "The gateway is being stopped and takes no more jobs.")
        most = self._line.capacity + self._limits.queued
        if len(self._live) >= most:
            error = RylaError("queue_full", f"{len(self._live)} jobs wait or run; that is all the gateway takes.")
            error.details["retry_after"] = self.patience
            raise error
        allowed = token.concurrency or self._limits.per_token if token else self._limits.per_token
        name = token.name if token else ""
        if allowed is not None and self._of[name] >= allowed:
            error = RylaError("too_many_jobs", f"This token may have {allowed} jobs at once.")
            error.details["retry_after"] = self.patience
            raise error

    @property
    def patience(self) -> int:
        """Seconds until a place may be free: what ``Retry-After`` says."""
        return max(1, min(60, math.ceil(self._seconds * (len(self._line) + 1) / self._line.capacity)))

    def _enter(self, job_id: str, spec: JobSpec, keep: bool) -> LiveJob:
        job = self._live[job_id] = LiveJob(job_id, spec, EventLog(self._epoch), keep=keep)
        self._of[spec.owner] += 1
        self.uploads.hold(spec.uploads)
        job.log.add("queued", {"job_id": job_id, "position": self.position(job)})
        return job

    def position(self, job: LiveJob) -> int:
        """How many jobs go before this one, as far as the gateway knows."""
        if job.started is not None:
            return 0
        if job.engine_job is not None:
            known = job.progress.ahead if job.progress else None
            return self._earlier(job) if known is None else known
        return self._line.ahead(job.spec.accepted) + self._line.busy

    def _earlier(self, job: LiveJob) -> int:
        """How many that an engine has, or is to get, were accepted before this one."""
        given = (other for other in self._live.values() if other.engine_job is not None)
        return sum(other.spec.accepted < job.spec.accepted for other in given)

    def _moved(self) -> None:
        self._metrics.waiting.set(len(self._line))
        for job in self._live.values():
            if job.log.listeners and job.engine_job is None:
                job.log.add("queued", {"job_id": job.id, "position": self.position(job)})

    # --- running ---------------------------------------------------------------------------------------------------

    async def run(self, job_id: str, record: Record) -> Record:
        """The body of a stored job: run it, or take it up when an earlier process began it."""
        job = self._live.get(job_id)
        if job is not None and job.task is not None:
            # It was taken away from us, and came back.
            await self._give_up([job])
            job = None
        job = job or self._revive(job_id, JobSpec.parse(record))
        self._metrics.alive.set(len(self._live))
        task = job.task = asyncio.current_task()
        assert task is not None
        # The task ends when the end is stored: only then is it told.
        task.add_done_callback(lambda _: self._leave(job))
        try:
            ending = await self._runner.run(job)
        except JobMoved:
            # As at the end of the process: nothing is stored of it here.
            job.moved = True
            raise asyncio.CancelledError from None
        with suppress(RylaError):  # Then they go with the job's other files.
            await self.elsewhere.forget(job_id, job.spec)
        await self.on_end(job_id, job.spec, ending)
        job.ending = ending
        return ending.record()

    async def _bring(self, job: LiveJob) -> None:
        await self.elsewhere.bring(job.id, job.spec)

    def _revive(self, job_id: str, spec: JobSpec) -> LiveJob:
        log.info("A job of an earlier process goes on.", extra={"job_id": job_id})
        return self._enter(job_id, spec, keep=True)

    def _leave(self, job: LiveJob) -> None:
        """The job's end is stored, or it is left to the next process."""
        if job.ending is None and self.draining:
            # Its uploads stay, too.
            job.outcome.cancel()
            return
        if job.moved:
            self._drop(job)
            job.outcome.cancel()
            return
        self._drop(job)
        if job.outcome.done():
            return
        if job.ending is None:
            error = RylaError("internal_error", "The gateway failed to run this job.")
            job.ending = Outcome("failed", time.time(), described(error))
        self._note(job, job.ending)
        job.outcome.set_result(job.ending)

    def _note(self, job: LiveJob, ending: Outcome) -> None:
        self._ended[job.id] = job
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        job.prompt = None
        if not job.watchers:
            job.data = None
        if ending.execution is not None:
            self._seconds = 0.8 * self._seconds + 0.2 * ending.execution
        self._metrics.ended(job.spec, ending)
        traces.ended(job.id, job.spec, ending)
        job.log.add("done", {"job_id": job.id, "state": ending.state, "error": ending.error}, last=True)
        code = ending.error["code"] if ending.error else ""
        facts = {"job_id": job.id, "prompt_id": ending.prompt_id, "state": ending.state, "code": code}
        log.info("Job of %s %s.", job.spec.workflow, ending.state, extra=facts)

    def _drop(self, job: LiveJob) -> None:
        if self._live.get(job.id) is job:
            del self._live[job.id]
            self._of[job.spec.owner] -= 1
            self.uploads.release(job.spec.uploads)
            self._metrics.alive.set(len(self._live))

    # --- asking ----------------------------------------------------------------------------------------------------

    async def find(self, job_id: str, owner: str) -> Found:
        """A job of this owner.

        Raises:
            RylaError: ``job_not_found``.
        """
        job = self._live.get(job_id) or self._ended.get(job_id)
        if job is not None:
            found = Found(job_id, job.spec, job, None)
        else:
            stored = await self.store.get(job_id)
            if stored is None or "workflow" not in stored[0]:
                raise unknown(job_id)
            found = self._found(job_id, *stored)
        if found.spec.owner != owner:
            raise unknown(job_id)
        return found

    async def cancel(self, found: Found) -> Found:
        """Stop a job and wait until it has ended; one that has is left as it is."""
        if found.outcome is not None:
            return found
        await asyncio.to_thread(self.results.cancelling, found.id)
        job = found.live or self._live.get(found.id)
        if job is None:
            ending = await self.elsewhere.end(found.id, _CANCEL_SECONDS)
            return Found(found.id, found.spec, None, ending)
        self.stop(job)
        await asyncio.wait({job.outcome}, timeout=_CANCEL_SECONDS)
        return Found(found.id, found.spec, job, None)

    async def look_for_cancelled(self) -> None:
        """Stop those that were cancelled at another gateway.

        Raises:
            RylaError: ``job_store_unreachable``.
        """
        if self._live:
            for job_id in await asyncio.to_thread(self.results.cancelled, self.alive):
                if (job := self._live.get(job_id)) is not None and not job.stop.is_set():
                    self.stop(job)

    async def give_up_moved(self) -> None:
        """Let go of the jobs that another gateway has taken over.

        Raises:
            RylaError: ``job_store_unreachable``.
        """
        begun = [job for job in self._live.values() if job.task is not None]
        own = await self.store.own()
        await self._give_up([job for job in begun if job.id not in own])

    async def _give_up(self, jobs: Sequence[LiveJob]) -> None:
        tasks = [job.task for job in jobs if job.task is not None]
        for job, task in zip(jobs, tasks, strict=True):
            job.moved = True
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_GIVE_UP_SECONDS)

    @staticmethod
    def stop(job: LiveJob) -> None:
        """Have a job cancelled."""
        job.stop.set()
        if job.engine_job is not None:
            job.engine_job.cancel()

    def forget(self, job_id: str) -> None:
        """The job's record is being deleted."""
        self._ended.pop(job_id, None)

    @property
    def alive(self) -> frozenset[str]:
        """The ids of the jobs that wait or run."""
        return frozenset(self._live)

    async def recent(self, owner: str, count: int) -> list[Found]:
        """The newest jobs of an owner, the newest first, of the last few hundred of all."""
        stored = [self._found(job_id, record, ending) for job_id, record, ending in await self.store.latest(_LATEST)]
        return [found for found in stored if found.spec.owner == owner][:count]

    def _found(self, job_id: str, record: Record, ending: Record | None) -> Found:
        live = self._live.get(job_id) or self._ended.get(job_id)
        return Found(job_id, JobSpec.parse(record), live, Outcome.parse(ending) if ending else None)

    # --- the end of the process ------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Take no more jobs, and wait for those that engines have."""
        self.draining = True
        running = [job.outcome for job in self._live.values() if job.engine_job is not None]
        if running:
            await asyncio.wait(running, timeout=seconds)

    async def abandon(self) -> None:
        """Leave what goes on to the next process."""
        self.draining = True
        tasks = [job.task for job in self._live.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_GIVE_UP_SECONDS)
