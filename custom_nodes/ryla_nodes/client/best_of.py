"""The best of several pictures as one job: each is a job of the state machine, and the highest face score is kept.

All are given to the engines at once, each under an id that is derived from the job's own. So a later process that
takes the job up asks for each of them, and runs again only those that no engine knows.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from ..errors import RylaError
from ..workflows.workflow import BoundPrompt
from .failures import FORGOTTEN
from .job import Job, Options, Submission
from .polling import Phase, Progress
from .protocol import State
from .results import Result, Timings
from .scores import Candidate

_IDS = uuid.UUID("0f7a4c52-5a0e-4e8e-9d4a-6b1f3f0f9c35")
_NOT_THERE = (*FORGOTTEN, "interrupted_elsewhere")
Begin = Callable[[BoundPrompt, Options], Job]
_FINAL = ("cancel_unverified", "cancelled")


def id_of(job_id: str, number: int) -> str:
    """The engine's id of picture ``number`` (from 0) of a job, at its first attempt."""
    return str(uuid.uuid5(_IDS, f"{job_id}/{number}"))


class BestOfJob(Job):
    """Several pictures of one prompt; the best is its result.

    Args:
        begin: begins the job of one picture.

    Its ``prompt_id`` is that of the whole until a picture is begun, then that picture's. The deadline holds for all
    together, from the moment that the first has an engine. Pictures that fail leave the choice to the rest.
    """

    def __init__(self, begin: Begin, prompt: BoundPrompt, options: Options) -> None:
        self._begin = begin
        attach = options.attach
        self._id = attach.prompt_id if attach else options.prompt_id or str(uuid.uuid4())
        self._jobs: list[Job] = []
        self._prompts = prompt.candidates()
        self._shown: dict[int, Progress] = {}
        self._stopped = self._late = False
        super().__init__(prompt, options)

    def cancel(self) -> None:
        """Stop all of its pictures, on their engines too."""
        self._stopped = True
        self._guard.cancel()
        for job in self._jobs:
            job.cancel()

    async def _run(self) -> Result:
        work = [self._picture(number, prompt) for number, prompt in enumerate(self._prompts)]
        deadline = asyncio.ensure_future(self._deadline())
        try:
            results = list(await asyncio.gather(*work))
        finally:
            deadline.cancel()
        return self._chosen(results)

    async def _deadline(self) -> None:
        await self._accepted.wait()
        await asyncio.sleep(self._options.timeout)
        self._late = True
        for job in self._jobs:
            job.cancel()

    async def _picture(self, number: int, prompt: BoundPrompt) -> Result:
        """One of the pictures; one that an earlier process may have begun is looked for first."""
        fresh = replace(
            self._options,
            attach=None,
            on_progress=lambda progress: self._show(number, progress),
            on_submit=self._noted,
            prompt_id=id_of(self._id, number),
        )
        attach = self._options.attach
        if attach is not None:
            begun = Submission(attach.server, fresh.prompt_id)
            result = await self._end_of(prompt, replace(fresh, attach=begun))
            if result.error is None or result.error.code not in _NOT_THERE or self._stopped:
                return result
        return await self._end_of(prompt, fresh)

    async def _end_of(self, prompt: BoundPrompt, options: Options) -> Result:
        job = self._begin(prompt, options)
        self._jobs.append(job)
        if self._stopped:
            job.cancel()
        accepted = asyncio.ensure_future(job.accepted())
        accepted.add_done_callback(lambda _: self._accepted.set() if not job.done else None)
        try:
            return await job.result()
        finally:
            accepted.cancel()

    def _noted(self, submission: Submission) -> Awaitable[None] | None:
        """Whoever keeps a journal notes where the whole was begun."""
        if self._options.on_submit is None:
            return None
        return self._options.on_submit(Submission(submission.server, self._id))

    # --- how far it is ------------------------------------------------------------------------------------------------

    def _show(self, number: int, progress: Progress) -> None:
        """Tell of the picture that has news; the count of nodes is that of all."""
        self.server, self.prompt_id = progress.server or self.server, progress.prompt_id or self.prompt_id
        self._shown[number] = progress
        phases = [shown.phase for shown in self._shown.values()]
        if self._options.on_progress is None or (progress.phase is Phase.QUEUED and Phase.RUNNING in phases):
            return
        total, done = len(self._prompts), phases.count(Phase.FETCHING)
        fetching = progress.phase is Phase.FETCHING
        whole = replace(
            progress,
            phase=Phase.RUNNING if fetching and done < total else progress.phase,
            node=f"{progress.node} ({min(done + 1, total)} of {total})" if progress.node else "",
            nodes_done=done * progress.nodes_total + (0 if fetching else progress.nodes_done),
            nodes_total=total * progress.nodes_total,
        )
        self._options.on_progress(whole)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _chosen(self, results: Sequence[Result]) -> Result:
        ends = [self._timed_out(result) if self._late else result for result in results]
        made = [number for number, result in enumerate(ends) if result.ok]
        told = [_candidate(prompt, result) for prompt, result in zip(self._prompts, ends, strict=True)]
        stopped = [result for result in ends if result.error is not None and result.error.code in _FINAL]
        if self._stopped and stopped:
            return self._ended(told, stopped[0].error, ends)
        if not made:
            return self._ended(told, self._all_failed(ends), ends)
        best = max(made, key=lambda number: (_score(ends[number]), -number))
        told[best] = replace(told[best], chosen=True)
        return self._put_together(told, ends, ends[best])

    def _timed_out(self, result: Result) -> Result:
        """What we stopped at the deadline was not cancelled by its user."""
        if self._stopped or result.error is None or result.error.code not in _FINAL:
            return result
        seconds = self._options.timeout
        message = f"The {len(self._prompts)} pictures of this job passed their deadline of {seconds:.0f} s."
        return replace(result, state=State.TIMED_OUT, error=RylaError("timed_out", message, seconds=seconds))

    def _all_failed(self, ends: Sequence[Result]) -> RylaError:
        """The first picture's error, which says that it is that of all."""
        error = ends[0].error
        assert error is not None
        codes = dict.fromkeys(result.error.code for result in ends if result.error is not None)
        also = "" if len(codes) == 1 else f" ({', '.join(codes)})"
        error.message = f"All {len(ends)} pictures failed{also}, the first so: {error.message}"
        return error

    def _put_together(self, told: list[Candidate], ends: Sequence[Result], best: Result) -> Result:
        failed = [candidate.error for candidate in told if candidate.error is not None]
        warnings = list(dict.fromkeys(line for result in ends for line in result.warnings))
        if failed:
            warnings.append(f"{len(failed)} of {len(told)} pictures failed, the first so: {failed[0].message}")
        if best.face_similarity is None:
            warnings.append("No picture has a face score: the first that was made is kept.")
        return replace(
            best,
            parameters=self.prompt.parameters,
            seed=self.prompt.seed,
            timings=self._timings(ends),
            cached=all(result.cached for result in ends if result.ok),
            attempts=sum(result.attempts for result in ends),
            warnings=tuple(warnings),
            candidates=tuple(told),
        )

    def _ended(self, told: list[Candidate], error: RylaError | None, ends: Sequence[Result] = ()) -> Result:
        state = next((result.state for result in ends if result.error is error), State.CANCELLED)
        self._tell_seed(error)
        return Result.without_picture(
            self.prompt,
            error,
            state=state,
            server=self.server,
            prompt_id=self.prompt_id,
            timings=self._timings(ends),
            attempts=sum(result.attempts for result in ends),
            candidates=tuple(told),
        )

    def _timings(self, ends: Sequence[Result]) -> Timings:
        """Seconds of all pictures on the engines, and until the first began."""
        known = [result.timings.execution for result in ends if result.timings.execution is not None]
        queued = min((result.timings.queued for result in ends), default=0.0)
        return Timings(queued, sum(known) if known else None, time.monotonic() - self._began)


def _candidate(prompt: BoundPrompt, result: Result) -> Candidate:
    return Candidate(prompt.seed or 0, result.face_similarity if result.ok else None, result.error)


def _score(result: Result) -> float:
    return -2.0 if result.face_similarity is None else result.face_similarity
