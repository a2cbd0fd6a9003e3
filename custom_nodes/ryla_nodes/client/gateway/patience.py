"""How long to go on asking a gateway that does not answer, and how often."""

from __future__ import annotations

import asyncio
import time

from ...errors import RylaError
from ..limits import Limits, Outage
from ..transport import CallFailed
from .problems import Passing

_PAUSES = (0.2, 0.4, 0.8, 1.5, 2.0)
_LONGEST = 60.0


class Knocking:
    """Before the gateway has the job: how long to try to hand it over.

    Args:
        wait: how many seconds to try at least.

    Attributes:
        sent: whether the job may have arrived.
        last: why the last try failed.
    """

    def __init__(self, server: str, limits: Limits, wait: float) -> None:
        self.sent = False
        self.last = ""
        self._server, self._limits, self._wait = server, limits, wait
        self._since: float | None = None
        self._failures = 0

    async def after(self, failure: CallFailed) -> None:
        """Pause after a failed try.

        Raises:
            RylaError: ``engine_unreachable``, or what the gateway said: it has been tried for long enough. A gateway
                that has no place now is asked until the job's deadline.
        """
        self.sent, self.last = self.sent or failure.sent, str(failure)
        if isinstance(failure, Passing) and failure.busy:
            self._since, self._failures = None, 0
            await asyncio.sleep(min(_LONGEST, 1.0 if failure.after is None else max(0.1, failure.after)))
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        patience = self._limits.gone_after if self.sent else self._limits.patience
        if now - self._since >= max(patience, self._wait):
            raise self._given_up(failure) from failure
        await asyncio.sleep(_pause(failure, self._failures))
        self._failures += 1

    def _given_up(self, failure: CallFailed) -> RylaError:
        if isinstance(failure, Passing):
            return failure.error
        message = f"No gateway answers at {self._server}: {failure}."
        hint = "Start it with ryla serve, or check the address."
        return RylaError("engine_unreachable", message, hint=hint, server=self._server, reason=str(failure))


class Patience:
    """Once the gateway has the job: it is durable, so the job goes on when it comes back."""

    def __init__(self, server: str, outage: Outage, job_id: str) -> None:
        self._server, self._outage, self._job_id = server, outage, job_id
        self._failures = 0

    def over(self) -> None:
        """It answered."""
        self._failures = 0
        self._outage.over(time.monotonic())

    def note(self, failure: CallFailed) -> float:
        """Take a failed call; how many seconds to wait before the next.

        Raises:
            RylaError: ``gateway_gone``.
        """
        now = time.monotonic()
        busy = isinstance(failure, Passing) and failure.busy
        self._outage.note(failure.absent and not busy, now)
        lasted = self._outage.lasted(now)
        if lasted is not None:
            message = (
                f"{self._server} went away with the job {self._job_id} and has not come back for {lasted:.0f} s: "
                f"{failure}."
            )
            raise RylaError("gateway_gone", message, server=self._server, job_id=self._job_id) from failure
        self._failures += 1
        return _pause(failure, self._failures - 1)

    async def after(self, failure: CallFailed) -> None:
        """As ``note``, and wait."""
        await asyncio.sleep(self.note(failure))


def _pause(failure: CallFailed, failures: int) -> float:
    told = failure.after if isinstance(failure, Passing) else None
    usual = _PAUSES[min(failures, len(_PAUSES) - 1)]
    return usual if told is None else min(_PAUSES[-1], max(usual, told))
