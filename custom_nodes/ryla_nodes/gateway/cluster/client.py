"""Runs workflows on the engines of a Ray cluster; in all else as the client of engines at an address."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable
from typing import Any

from ...client import Job, Phase, Progress, Result, State, Submission, Timings
from ...client.async_client import BindingClient
from ...client.job import STATES, Options
from ...errors import RylaError
from ...settings import Settings
from ...workflows.workflow import BoundPrompt
from .connection import Cluster, NoReplicas, ReplicaLost
from .messages import Order, Refused, Report

SERVER = "ray"
"""What stands for the engine's address where a job was submitted: which replica has it is asked when it matters."""

_LIVES = 3
"""How many replicas a job may lose."""
_PAUSE = 0.5
_STOP_SECONDS = 30.0


class RayClient(BindingClient):
    """Gives jobs to a cluster, all at once: Serve keeps the queue, whose length decides how many replicas there are."""

    depth = 2

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        super().__init__(settings)
        self._cluster = cluster

    @property
    def servers(self) -> tuple[str, ...]:
        return (SERVER,)

    async def aclose(self) -> None:
        self._cluster.close()

    async def versions(self) -> tuple[str, ...]:
        return tuple(each.sight.version for each in await self._cluster.sights([], []))

    def _begin(self, prompt: BoundPrompt, options: Options) -> Job:
        return RayJob(self._cluster, prompt, options)


def near(prompt: BoundPrompt) -> str:
    """What a replica had best have loaded for a job: its LoRAs and models; "" when it needs none."""
    return " ".join(sorted(want for want in prompt.wants if not want.startswith("workflow:")))


async def _nothing() -> None:
    await asyncio.sleep(_PAUSE)


class RayJob(Job):
    """A job on a replica of a cluster. A lost replica takes its engine with it: then the job runs on another one."""

    def __init__(self, cluster: Cluster, prompt: BoundPrompt, options: Options) -> None:
        self._cluster = cluster
        self._attempts = 0
        super().__init__(prompt, options)
        self.prompt_id = self.prompt_id or str(uuid.uuid4())

    async def _run(self) -> Result:
        try:
            return await self._to_end()
        except RylaError as error:
            self._tell_seed(error)
            return self._ended(error)

    async def _to_end(self) -> Result:
        self._guard.lifetime.begin(time.monotonic())
        if self._options.attach is not None:
            found = await self._guarded(self._found())
            if found is not None:
                return found
        noted = self._options.on_submit(Submission(SERVER, self.prompt_id)) if self._options.on_submit else None
        if noted is not None:
            await noted
        lost, patience = "", time.monotonic() + self._options.wait
        while self._attempts < _LIVES:
            try:
                result = await self._once()
            except NoReplicas as error:
                if time.monotonic() > patience:
                    raise RylaError("engine_unreachable", f"The cluster has no engines: {error}") from error
                result = await self._guarded(_nothing())
            except ReplicaLost as error:
                lost = str(error)
                result = await self._guarded(self._found())
                self._attempts += 1
            if result is not None:
                return result
        message = f"{_LIVES} replicas went away while they had the job; the last: {lost}"
        raise RylaError("job_lost", message)

    async def _once(self) -> Result | None:
        """Give the job away and wait for its end; None when the replica would rather not have it.

        Raises:
            ReplicaLost: it went away.
            RylaError: ``cancelled``, ``timed_out``, and what no replica would take.
        """
        left = self._guard.lifetime.deadline - time.monotonic()
        of_this = (self.prompt, self.prompt_id, max(1.0, left))
        order = await asyncio.to_thread(Order.of, *of_this) if self.prompt.uploads else Order.of(*of_this)
        response = self._cluster.run(order, near(self.prompt))
        return await self._guarded(self._followed(response), response)

    async def _followed(self, response: Any) -> Result | None:
        async for report in self._cluster.told(response):
            result = self._take(report)
            if result is not None:
                return result
            if isinstance(report, Refused):
                break
        # Serve has not noticed yet that this replica's engine is gone.
        await asyncio.sleep(_PAUSE)
        return None

    def _take(self, report: Report) -> Result | None:
        if isinstance(report, Progress):
            self._accepted.set()
            self.server = report.server
            if self._options.on_progress is not None:
                self._options.on_progress(report)
        elif isinstance(report, Refused):
            if report.lasting:
                raise report.error
        elif report.error is None or report.error.code not in ("engine_unreachable", "zombie_worker"):
            return self._final(report)
        return None

    async def _found(self) -> Result | None:
        """The end of the job on the replica that has it; None when none has: it never began, or is lost with one."""
        answers = await self._cluster.ask_all("result_of", self.prompt_id, seconds=None)
        return next((self._take(answer) for answer in answers if answer is not None), None)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _guarded(self, work: Awaitable[Result | None], response: Any = None) -> Result | None:
        """What ``work`` gives; at a cancellation, or at the deadline, the job is stopped instead."""
        task: asyncio.Future[Result | None] = asyncio.ensure_future(work)
        try:
            await self._guard.wait(task)
            if task.cancelled():
                raise ReplicaLost("Serve gave the job up")
            if task.done():
                return task.result()
            return await self._stopped(task, response)
        finally:
            task.cancel()

    async def _stopped(self, task: asyncio.Future[Result | None], response: Any) -> Result:
        found = await self._stop()
        if found is None and response is not None:
            response.cancel()
            # It may have come to a replica just before.
            found = await self._stop()
        late = not self._guard.lifetime.cancelled
        if found is not None and (found.ok or not late):
            return self._final(found)
        if late:
            seconds = self._guard.lifetime.timeout
            raise RylaError("timed_out", f"The job passed its deadline of {seconds:.0f} s.", seconds=seconds)
        if self._accepted.is_set():
            raise RylaError("cancel_unverified", "Cancelled, but the replica that had the job did not confirm it.")
        raise RylaError("cancelled", "Cancelled while it waited; no engine had it.")

    async def _stop(self) -> Result | None:
        answers = await self._cluster.ask_all("stop", self.prompt_id, seconds=_STOP_SECONDS)
        return next((answer for answer in answers if answer is not None), None)

    def _final(self, result: Result) -> Result:
        self.server = result.server
        self._tell_seed(result.error)
        on_progress = self._options.on_progress
        if result.ok and on_progress is not None:
            on_progress(Progress(Phase.FETCHING, result.server, self.prompt_id))
        return result

    def _ended(self, error: RylaError) -> Result:
        state = STATES.get(error.code, State.LOST if error.code == "job_lost" else State.FAILED)
        return Result.without_picture(
            self.prompt,
            error,
            state=state,
            server=self.server,
            prompt_id=self.prompt_id,
            timings=Timings(0.0, None, time.monotonic() - self._began),
            attempts=self._attempts + 1,
        )
