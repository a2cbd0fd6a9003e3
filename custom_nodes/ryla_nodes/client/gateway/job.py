"""One job at a gateway: handed over once, under a key of its own, followed to its end, its pictures fetched."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ...errors import RylaError
from ...workflows.workflow import BoundPrompt
from ..job import STATES, Job, Options, Submission
from ..limits import Outage
from ..polling import Phase
from ..protocol import State
from ..results import Picture, Timings
from ..transport import CallFailed
from .api import Facts, GatewayApi
from .feed import BROKEN, Feed
from .patience import Knocking, Patience
from .problems import ending
from .result import GatewayResult, facts_of, fetch, number
from .tracker import Tracker
from .workflow import body_of

_GOING_ON = ("queued", "running")
_ENDS = {**STATES, "cancel_unverified": State.CANCELLED}
_AGAIN_WITH_SEED = "Run it again with the same --seed."
_WHILE_HEARD = 5.0
_SLOWEST, _FASTEST = 1.0, 0.1
_ASK_AGAIN = 0.3


class GatewayJob(Job):
    """A job at a gateway.

    Args:
        prompt: what is known of it so far; ``bound`` gives the whole.
        places: held while the gateway has the job; None for no limit.

    Attributes:
        job_id: the gateway's id of it; "" before it has one.
    """

    def __init__(
        self,
        api: GatewayApi,
        prompt: BoundPrompt,
        bound: Callable[[], Coroutine[Any, Any, BoundPrompt]],
        options: Options,
        places: asyncio.Semaphore | None,
    ) -> None:
        self.job_id = ""
        self._api, self._bound, self._places = api, bound, places
        self._attach = options.attach
        self._attempts = 0
        self._knocking = Knocking(api.server, api.limits, options.wait)
        self._tracker = Tracker(api.server, options.on_progress)
        super().__init__(prompt, options)

    async def _run(self) -> GatewayResult:
        try:
            self.prompt = await self._guard.run(self._bound())
            if self._attach is not None and self._attach.server != self._api.server:
                message = f"{self._attach.server} is not this client's gateway, {self._api.server}."
                raise RylaError("invalid_server", message, server=self._attach.server)
            self.server = self._api.server
            if self._places is None:
                return await self._rounds()
            await self._guard.run(self._places.acquire())
            try:
                return await self._rounds()
            finally:
                self._places.release()
        except RylaError as error:
            return self._result(_ENDS.get(error.code, State.FAILED), error)

    async def _rounds(self) -> GatewayResult:
        """Run it, and again under another key when its engine lost it."""
        body = await asyncio.to_thread(body_of, self.prompt)
        reruns = self._options.reruns
        self._guard.lifetime.begin(time.monotonic())
        while True:
            result = await self._once(body)
            if result.state is not State.LOST or not reruns or self._guard.lifetime.cancelled:
                return result
            reruns -= 1

    async def _once(self, body: bytes) -> GatewayResult:
        attach, self._attach = self._attach, None
        key = attach.prompt_id if attach else self._options.prompt_id if not self._attempts else ""
        self._attempts += 1
        self.prompt_id, self.job_id = key or str(uuid.uuid4()), ""
        self._knocking = Knocking(self._api.server, self._api.limits, self._options.wait)
        try:
            return await self._to_end(body, self.prompt_id)
        except RylaError as error:
            if error.code == "result_gone":
                return self._result(State.LOST, RylaError("result_gone", error.message, hint=_AGAIN_WITH_SEED))
            # Forgotten; or the key, which an earlier process noted, has become another job's.
            taken = attach is not None and error.code == "idempotency_conflict"
            if error.code != "job_not_found" and not taken:
                raise
            message = f"{self._api.server} no longer knows the job {self.prompt_id}."
            return self._result(State.LOST, RylaError("job_lost", message, server=self._api.server))

    async def _to_end(self, body: bytes, key: str) -> GatewayResult:
        stop: RylaError | None = None
        try:
            facts = await self._guard.run(self._alive(body, key))
        except RylaError as error:
            if error.code not in STATES:
                raise
            if not self.job_id and not self._knocking.sent:
                raise self._never_taken(error) from None
            stop = error
            facts = await self._stopped(body, key, error)
        if facts["state"] != State.SUCCEEDED.value:
            return self._unsuccessful(facts, stop)
        self._tracker.phase(Phase.FETCHING)
        # The job has succeeded: a cancellation comes too late.
        pictures = await self._guard.run(fetch(self._api, facts), stoppable=False)
        return self._result(State.SUCCEEDED, None, facts, pictures)

    # --- while it goes on ---------------------------------------------------------------------------------------------

    async def _alive(self, body: bytes, key: str) -> Facts:
        """Hand it over and follow it; how it ended."""
        if self._options.on_submit is not None:
            noted = self._options.on_submit(Submission(self._api.server, key))
            if noted is not None:
                await noted
        facts = await self._handed_over(body, key)
        self._accepted.set()
        self._tracker.facts(facts)
        return facts if _ended(facts) else await self._followed(facts)

    async def _handed_over(self, body: bytes, key: str) -> Facts:
        """POST it until the gateway has it: under one key that is once, however often the answer is lost."""
        while True:
            try:
                # Given up in the middle, it may have arrived.
                before, self._knocking.sent = self._knocking.sent, True
                facts = await self._api.submit(self.prompt.workflow, body, key)
            except CallFailed as failure:
                self._knocking.sent = before
                await self._knocking.after(failure)
                continue
            self.job_id = self.prompt_id = str(facts["id"])
            return facts

    async def _followed(self, facts: Facts) -> Facts:
        """Wait for its end: answers are the truth, events tell how far it is and when to ask."""
        patience = Patience(self._api.server, Outage(self._api.limits), self.job_id)
        began = time.monotonic()
        async with Feed(self._api, self.job_id, self._event, self._options.on_preview) as feed:
            while True:
                age = time.monotonic() - began
                pause = _WHILE_HEARD if feed.heard else min(_SLOWEST, max(_FASTEST, age / 10))
                await self._guard.sleep(time.monotonic() + pause)
                try:
                    facts = await self._api.job(self.job_id)
                except CallFailed as failure:
                    await patience.after(failure)
                    continue
                patience.over()
                if _ended(facts):
                    return facts
                if not feed.heard:
                    self._tracker.facts(facts)

    def _event(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind in ("done", BROKEN):
            self._guard.wake()
        else:
            self._tracker.event(kind, data)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _stopped(self, body: bytes, key: str, stop: RylaError) -> Facts:
        """Stop it at the gateway, and verify that; how it ended.

        Raises:
            RylaError: ``cancel_unverified`` or ``timed_out``: the gateway did not confirm it in time.
        """
        until = time.monotonic() + self._api.limits.cancel_grace
        while (left := until - time.monotonic()) > 0:
            try:
                if not self.job_id:
                    # The answer is lost, and the id with it: the same key tells it.
                    again = self._api.submit(self.prompt.workflow, body, key)
                    self.job_id = str((await asyncio.wait_for(again, left))["id"])
                facts = await self._api.cancel(self.job_id, left)
                if _ended(facts):
                    return facts
            except (CallFailed, asyncio.TimeoutError):
                pass  # Asked again below.
            await asyncio.sleep(min(_ASK_AGAIN, max(0.0, until - time.monotonic())))
        named = f"the job {self.job_id}" if self.job_id else "the job"
        if stop.code == "timed_out":
            raise self._timed_out(f"{self._api.server} did not confirm its cancellation", verified=False)
        message = f"Cancelled here, but {self._api.server} did not confirm it: {named} may still be running."
        hint = f"GET {self._api.server}/jobs/{self.job_id}" if self.job_id else ""
        raise RylaError("cancel_unverified", message, hint=hint, server=self._api.server, job_id=self.job_id)

    def _never_taken(self, stop: RylaError) -> RylaError:
        if stop.code == "timed_out":
            return self._timed_out(f"it was not taken: {self._knocking.last or 'no answer came'}", verified=True)
        return stop

    def _timed_out(self, after: str, *, verified: bool) -> RylaError:
        seconds = self._guard.lifetime.timeout
        message = f"The job at {self._api.server} passed its deadline of {seconds:.0f} s; {after}."
        where = {"server": self._api.server, "job_id": self.job_id}
        return RylaError("timed_out", message, seconds=seconds, verified=verified, **where)

    def _unsuccessful(self, facts: Facts, stop: RylaError | None) -> GatewayResult:
        told = {"server": self._api.server, "job_id": self.job_id}
        if facts["state"] == State.CANCELLED.value and stop is not None:
            if stop.code == "timed_out":
                return self._result(State.TIMED_OUT, self._timed_out("it was cancelled", verified=True), facts)
            error = RylaError("cancelled", f"Cancelled; {self._api.server} has stopped it.", **told)
            return self._result(State.CANCELLED, error, facts)
        if facts["state"] == State.CANCELLED.value:
            message = f"Somebody else cancelled this job at {self._api.server}."
            return self._result(State.FAILED, RylaError("interrupted_elsewhere", message, **told), facts)
        known = facts["state"] in [state.value for state in State]
        return self._result(State(facts["state"]) if known else State.FAILED, ending(self._api.server, facts), facts)

    def _result(
        self,
        state: State,
        error: RylaError | None,
        facts: Facts | None = None,
        pictures: tuple[Picture, ...] = (),
    ) -> GatewayResult:
        self._tell_seed(error)
        known = facts or {}
        return GatewayResult(
            state=state,
            error=error,
            workflow=self.prompt.workflow,
            parameters=self.prompt.parameters,
            seed=self.prompt.seed,
            server=self._api.server,
            pictures=pictures,
            outputs={},
            timings=Timings(
                queued=number(known.get("queue_seconds")) or 0.0,
                execution=number(known.get("execution_seconds")),
                total=time.monotonic() - self._began,
            ),
            attempts=self._attempts,
            **{**facts_of(known), "job_id": self.job_id},
        )


def _ended(facts: Facts) -> bool:
    return facts["state"] not in _GOING_ON
