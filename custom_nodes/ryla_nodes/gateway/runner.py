"""One accepted job on the engines: its turn, its submission, its result."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from ..client import Job as EngineJob
from ..client import Result, Submission
from ..client.failures import FORGOTTEN
from ..errors import RylaError
from ..workflows.workflow import BoundPrompt, Workflow
from .backend import Client
from .cost import price_of
from .job import JobSpec, LiveJob, Outcome, StoredPicture, prompt_id_of
from .line import Line
from .options import Options
from .problems import described
from .results import Facts, Results, outcome_of
from .uploads import Uploads

log = logging.getLogger(__name__)

_STATES = {"cancelled": "cancelled", "timed_out": "timed_out"}


class Runner:
    """Runs jobs one by one, many at once.

    Args:
        gpu_of: the GPU of the engine at a base URL; "" when it is not known.
        bring: has the photos of a job here.
    """

    def __init__(
        self,
        options: Options,
        client: Client,
        workflows: Mapping[str, Workflow],
        results: Results,
        uploads: Uploads,
        line: Line,
        gpu_of: Callable[[str], str],
        bring: Callable[[LiveJob], Awaitable[None]],
    ) -> None:
        self._options, self._client, self._workflows = options, client, workflows
        self._results, self._uploads, self._line, self._gpu_of = results, uploads, line, gpu_of
        self._bring = bring

    async def run(self, job: LiveJob) -> Outcome:
        """Run a job to its end, whatever that is; one that an earlier process submitted is taken up where it is."""
        try:
            return await self._run(job)
        except RylaError as error:
            log.info("%s", error.message, extra={"job_id": job.id, "code": error.code})
            return _ended_early(job, error)

    def bind(self, spec: JobSpec) -> BoundPrompt:
        """A stored job's prompt.

        Raises:
            RylaError: ``unknown_workflow``, or what binding raises: the workflow is another one by now.
        """
        workflow = self._workflows.get(spec.workflow)
        if workflow is None:
            raise RylaError("unknown_workflow", f"The workflow {spec.workflow} is no longer served here.")
        return self._client.bind(workflow, with_paths(workflow, spec.parameters, self._uploads))

    async def _run(self, job: LiveJob) -> Outcome:
        if job.prompt is not None:
            return await self._in_turn(job, job.prompt)
        if await asyncio.to_thread(self._results.cancelled, frozenset({job.id})):
            job.stop.set()
        await self._bring(job)
        prompt = job.prompt = await asyncio.to_thread(self.bind, job.spec)
        submission = await asyncio.to_thread(self._results.submission, job.id)
        if submission is None:
            return await self._in_turn(job, prompt)
        # It may be running, so it waits for no turn.
        job.submitted.put_nowait(submission)
        attached = self._client.attach(
            prompt,
            submission,
            timeout=max(1.0, job.remaining),
            on_progress=job.show,
            on_preview=job.log.show,
            on_submit=partial(self._submitting, job),
        )
        result = await self._ended(job, attached)
        if await self._never_arrived(job, result):
            return await self._in_turn(job, prompt)
        return await self._outcome(job, prompt, result)

    async def _never_arrived(self, job: LiveJob, result: Result) -> bool:
        """Whether the earlier process ended before the engine had the job. What one had and forgot is not run again."""
        if result.error is None or result.error.code not in FORGOTTEN or job.stop.is_set():
            return False
        return not await asyncio.to_thread(self._results.was_accepted, job.id)

    async def _in_turn(self, job: LiveJob, prompt: BoundPrompt) -> Outcome:
        await self._turn(job)
        try:
            engine_job = self._client.start(
                prompt,
                timeout=job.remaining,
                on_progress=job.show,
                on_preview=job.log.show,
                on_submit=partial(self._submitting, job),
                prompt_id=prompt_id_of(job.id),
                depth=self._options.limits.engine_depth,
                wait=min(self._options.limits.engine_wait, job.remaining),
            )
            return await self._outcome(job, prompt, await self._ended(job, engine_job))
        finally:
            self._line.leave()

    async def _turn(self, job: LiveJob) -> None:
        """Wait in the line.

        Raises:
            RylaError: ``cancelled`` or ``timed_out``; then it has no turn.
        """
        turn = asyncio.ensure_future(self._line.enter(job.spec.accepted))
        stop = asyncio.ensure_future(job.stop.wait())
        try:
            await asyncio.wait({turn, stop}, timeout=max(0.0, job.remaining), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            turn.cancel()  # Without effect on one that has come.
        if turn.done() and not turn.cancelled():
            if not job.stop.is_set() and job.remaining > 0:
                return
            self._line.leave()
        if job.stop.is_set():
            raise RylaError("cancelled", "Cancelled while it waited; no engine had it.")
        seconds = job.spec.deadline - job.spec.accepted
        raise RylaError("timed_out", f"The job passed its deadline of {seconds:.0f} s before an engine was free.")

    async def _ended(self, job: LiveJob, engine_job: EngineJob) -> Result:
        job.engine_job = engine_job
        if job.stop.is_set():
            engine_job.cancel()
        noting = asyncio.ensure_future(self._note_accepted(job, engine_job))
        try:
            return await engine_job.result()
        finally:
            noting.cancel()

    async def _submitting(self, job: LiveJob, submission: Submission) -> None:
        await self._results.submitting(job.id, submission)
        job.submitted.put_nowait(submission)

    async def _note_accepted(self, job: LiveJob, engine_job: EngineJob) -> None:
        """Note of each attempt that an engine has it."""
        while True:
            submission = await job.submitted.get()
            await engine_job.accepted()
            if not engine_job.done:
                await self._results.accepted(job.id, submission)

    async def _outcome(self, job: LiveJob, prompt: BoundPrompt, result: Result) -> Outcome:
        pictures = await self._keep(job, result)
        gpu = self._gpu_of(result.server)
        facts = Facts(
            pictures=pictures,
            gpu=gpu,
            price=price_of(self._options.settings.gpu_usd_per_hour, gpu),
        )
        return outcome_of(result, prompt, job, facts)

    async def _keep(self, job: LiveJob, result: Result) -> tuple[StoredPicture, ...]:
        if not result.ok:
            return ()
        job.data = result.pictures[0].data
        return await self._results.keep(job.id, result.pictures)


def with_paths(workflow: Workflow, parameters: Mapping[str, Any], uploads: Uploads) -> dict[str, Any]:
    """Parameters as binding takes them: of a picture its path, not its upload's name."""
    images = {parameter.name for parameter in workflow.parameters if parameter.type == "image"}
    return {name: str(uploads.path(value)) if name in images else value for name, value in parameters.items()}


def _ended_early(job: LiveJob, error: RylaError) -> Outcome:
    """The end of a job that gave no result."""
    return Outcome(
        state=_STATES.get(error.code, "failed"),
        finished=time.time(),
        error=described(error),
        seed=job.prompt.seed if job.prompt else None,
        prompt_id=job.prompt_id,
    )
