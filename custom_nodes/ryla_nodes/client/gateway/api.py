"""What a gateway can be asked, call by call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote

import httpx

from ...errors import RylaError
from ...workflows.workflow import Workflow
from ..address import Address
from ..limits import Limits
from ..transport import CallFailed, Transport, decoded, is_problem
from .problems import refusal
from .workflow import workflow_of

_MOST_STREAMS = 16

Facts = Mapping[str, Any]
"""A job as the gateway tells it."""


class GatewayApi:
    """One gateway at one address. Belongs to the event loop that it is first used in.

    All calls raise ``CallFailed`` when no answer came, its kind ``Passing`` for a refusal that may be over soon, and
    ``RylaError`` for one that is final.

    Attributes:
        streams: held while events are listened to: a connection each, of which there must be some left for the rest.
    """

    def __init__(self, address: Address, limits: Limits) -> None:
        self.server, self.limits = address.base, limits
        self.streams = asyncio.Semaphore(_MOST_STREAMS)
        self._transport = Transport(address, limits)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._transport.aclose()

    async def workflow(self, name: str) -> Workflow:
        """What the gateway declares of a workflow. ``unknown_workflow``, ``not_a_gateway``, ``unauthorized``."""
        response = await self._transport.call("GET", f"/workflows/{quote(name, safe='')}")
        if response.status_code != 200:
            raise await self._refused(response)
        try:
            return workflow_of(decoded(response))
        except (CallFailed, KeyError, TypeError, ValueError) as error:
            raise await self._stranger(f" ({error})" if isinstance(error, ValueError) else "") from error

    async def ready(self) -> Facts:
        """What the gateway tells of its engines, ready or not; nothing when it does not tell."""
        told = decoded(await self._transport.call("GET", "/ready"))
        return told if isinstance(told, dict) else {}

    async def submit(self, workflow: str, body: bytes, key: str) -> Facts:
        """POST a job under its key, to be run in the background; the same key gives the same job."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "Prefer": "respond-async"}
        limit = self.limits.transfer
        response = await self._transport.call("POST", f"/{workflow}", content=body, headers=headers, limit=limit)
        return self._facts(response)

    async def job(self, job_id: str) -> Facts:
        """How a job is."""
        return self._facts(await self._transport.call("GET", f"/jobs/{job_id}"))

    async def cancel(self, job_id: str, limit: float) -> Facts:
        """Stop a job; the gateway answers when it has ended, or soon."""
        return self._facts(await self._transport.call("DELETE", f"/jobs/{job_id}", limit=limit))

    async def picture(self, job_id: str, number: int, kind: str) -> bytes:
        """A picture of a job that succeeded, of the type that it was stored in."""
        response = await self._transport.call(
            "GET",
            f"/jobs/{job_id}/result",
            params={"number": number},
            headers={"Accept": kind},
            limit=self.limits.transfer,
        )
        if response.status_code != 200:
            raise self._failure(response)
        return response.content

    def events(self, job_id: str, last_id: str, *, previews: bool) -> AbstractAsyncContextManager[httpx.Response]:
        """The stream of a job's events behind ``last_id``."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        return self._transport.stream(f"/jobs/{job_id}/events{'?preview=1' if previews else ''}", headers)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _facts(self, response: httpx.Response) -> Facts:
        if response.status_code not in (200, 202):
            raise self._failure(response)
        facts = decoded(response)
        if not isinstance(facts, dict) or not isinstance(facts.get("id"), str) or "state" not in facts:
            raise CallFailed("the answer is no job", sent=True)
        return facts

    def _failure(self, response: httpx.Response) -> Exception:
        return refusal(self.server, response, str(self._transport.route))

    async def _refused(self, response: httpx.Response) -> Exception:
        failure = self._failure(response)
        if not isinstance(failure, RylaError) or failure.code not in ("not_a_gateway", "no_such_route"):
            return failure
        return await self._stranger(" of this version: it is older" if is_problem(response) else "")

    async def _stranger(self, why: str) -> RylaError:
        """The failure for an address where no gateway is; an engine is told apart."""
        facts = {"server": self.server}
        try:
            stats = await self._transport.read("/system_stats")
        except CallFailed:
            stats = None
        if isinstance(stats, dict) and "system" in stats:
            message = f"What answers at {self.server} is no gateway but an engine."
            return RylaError("not_a_gateway", message, hint=f"--server {self.server}", **facts)
        return RylaError("not_a_gateway", f"What answers at {self.server} is not a gateway{why}.", **facts)


async def lines_of(response: httpx.Response, silence: float) -> AsyncIterator[str]:
    """The lines of an answer as they come; it ends when none comes for ``silence`` seconds."""
    lines = response.aiter_lines().__aiter__()
    while True:
        try:
            yield (await asyncio.wait_for(lines.__anext__(), silence)).rstrip("\r\n")
        except (StopAsyncIteration, asyncio.TimeoutError):
            return
