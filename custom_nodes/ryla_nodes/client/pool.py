"""Several engines as one: who takes the next job, who is set aside, and what each already holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import RylaError
from ..settings import Settings
from ..workflows.graph import Graph
from ..workflows.validate import problems, require_valid
from .address import Address
from .api import EngineApi
from .limits import Limits
from .transport import EngineInfo

_ASIDE = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_FRESH = 2.0
_SWITCH_COST = 1.5
"""How many jobs longer a queue may be on an engine that has the models loaded, before another one is better."""
_REPLACE_COST = 0.25


@dataclass(eq=False)
class Member:
    """One engine of the pool and what is known of it.

    Attributes:
        in_flight: jobs of ours that it has or is about to get.
        queued: its queue's length when last asked, others' jobs included.
        holds: what the jobs that ran on it used: workflow, models, LoRAs.
        seconds: workflow -> how long a run takes here (moving average).
        trouble: why it was set aside, while it is.
    """

    engine: EngineApi
    info: EngineInfo | None = None
    in_flight: int = 0
    queued: int = 0
    queued_at: float = 0.0
    holds: frozenset[str] = frozenset()
    seconds: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    aside_until: float = 0.0
    trouble: RylaError | None = None
    _classes: dict[str, Any] = field(default_factory=dict)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _background: set[asyncio.Future[None]] = field(default_factory=set)

    async def check(self, graph: Graph) -> str:
        """Check a graph against what this engine has, before any of its time is used; a warning when it does not say.

        Raises:
            RylaError: ``missing_node``, ``missing_model`` or ``invalid_graph``.
        """
        classes = {str(node.get("class_type")) for node in graph.values()}
        async with self._asking:
            if classes <= self._classes.keys() and not _errors(graph, self._classes):
                return ""
            # Asked again when there is a problem: a LoRA or a pack may have come since.
            try:
                found = await self.engine.object_info(classes)
            except RylaError as error:
                return f"The graph was not checked before the run: {error.message}"
            if not found:
                return f"The graph was not checked before the run: {self.engine.server} names no node of it."
            self._classes.update(found)
        require_valid(graph, self._classes, where=self.engine.server)
        return ""

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Let ``work`` go on in the background; ``aclose`` waits for it."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*self._background, self.engine.aclose())

    def ran(self, workflow: str, wants: frozenset[str], seconds: float | None) -> None:
        """Note a job that succeeded here."""
        self.failures = 0
        self.holds = wants
        if seconds is not None:
            before = self.seconds.get(workflow, seconds)
            self.seconds[workflow] = 0.5 * before + 0.5 * seconds

    def cost(self, wants: frozenset[str]) -> float:
        """What a job with these wants would wait for here, in jobs."""
        missing = len(wants - self.holds) / len(wants) if wants else 0.0
        # Rather a free engine that holds nothing than one that would drop what the next job may want.
        replaced = _REPLACE_COST if missing and self.holds else 0.0
        return max(self.in_flight, self.queued) + _SWITCH_COST * missing + replaced


def _errors(graph: Graph, classes: Mapping[str, Any]) -> bool:
    return any(problem.severity == "error" for problem in problems(graph, classes))


class Pool:
    """The engines that a client may use, in the order given. Belongs to one event loop."""

    def __init__(self, servers: Sequence[str], limits: Limits, settings: Settings | None = None) -> None:
        addresses = dict.fromkeys(Address.parse(server, settings) for server in servers)
        self.members = [Member(EngineApi(address, limits)) for address in addresses]
        self._changed = asyncio.Condition()
        self._probed: dict[Member, asyncio.Future[None]] = {}

    async def aclose(self) -> None:
        for probe in self._probed.values():
            probe.cancel()
        await asyncio.gather(*(member.aclose() for member in self.members))

    def take(self, server: str) -> Member:
        """Lease the engine at this very address, whether or not it is set aside.

        Raises:
            RylaError: ``invalid_server`` when the pool has no such engine.
        """
        base = Address.parse(server).base
        for member in self.members:
            if member.engine.server == base:
                member.in_flight += 1
                return member
        raise RylaError("invalid_server", f"{base} is none of this client's engines.", server=base)

    async def lease(
        self, wants: frozenset[str], *, exclude: Iterable[Member] = (), depth: int | None = None, wait: float = 0.0
    ) -> Member:
        """Take the best engine for a job; give it back with ``release``.

        Args:
            wants: what the job uses; an engine that holds it is preferred.
            exclude: engines that cannot take this job.
            depth: the most jobs of ours that an engine may have; waits until one has fewer.
            wait: how many seconds to wait while every engine is set aside.

        Raises:
            RylaError: why no engine can be had.
        """
        excluded = set(exclude)
        usable = [member for member in self.members if member not in excluded]
        patience = time.monotonic() + wait
        while True:
            await self._refresh(usable, now=wait == 0)
            healthy = [member for member in usable if member.trouble is None]
            free = [member for member in healthy if depth is None or member.in_flight < depth]
            if free:
                best = min(free, key=lambda member: member.cost(wants))
                best.in_flight += 1
                return best
            if healthy:
                patience = time.monotonic() + wait
            elif time.monotonic() >= patience:
                raise self._why(usable or excluded)
            await self._wait_for_change(0.5)

    async def release(self, member: Member) -> None:
        """The job that leased ``member`` is over."""
        member.in_flight -= 1
        async with self._changed:
            self._changed.notify_all()

    def set_aside(self, member: Member, error: RylaError) -> None:
        """Give ``member`` no job for a pause; each failure in a row makes the pause longer."""
        pause = _ASIDE[min(member.failures, len(_ASIDE) - 1)]
        member.failures += 1
        member.aside_until = time.monotonic() + pause
        member.trouble = error
        member.info = None

    def others(self, tried: Iterable[Member]) -> bool:
        """Whether there is an engine that a job has not tried."""
        return not set(self.members) <= set(tried)

    async def _wait_for_change(self, limit: float) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), limit)
            except asyncio.TimeoutError:
                return

    async def _refresh(self, members: Sequence[Member], *, now: bool) -> None:
        """Learn who the engines are, and their queues when that decides.

        One that is set aside is asked again in the background when its time is over; at once with ``now`` when there
        is no other.
        """
        troubled = [member for member in members if member.trouble is not None]
        healthy = [member for member in members if member.trouble is None]
        await asyncio.gather(*(self._ask(member, len(members) > 1) for member in healthy))
        if now and troubled and all(member.trouble is not None for member in members):
            await asyncio.gather(*(self._ask(member, False) for member in troubled))
            return
        for member in troubled:
            if time.monotonic() >= member.aside_until and member not in self._probed:
                self._probed[member] = asyncio.ensure_future(self._probe(member))

    async def _probe(self, member: Member) -> None:
        await self._ask(member, False)
        del self._probed[member]
        async with self._changed:
            self._changed.notify_all()

    async def _ask(self, member: Member, ask_queue: bool) -> None:
        now = time.monotonic()
        try:
            if member.info is None:
                member.info = await member.engine.info()
        except RylaError as error:
            self.set_aside(member, error)
            return
        member.trouble = None
        if ask_queue and now - member.queued_at > _FRESH:
            member.queued_at = now
            # It helps to choose; one that does not tell counts as it did before.
            with suppress(RylaError):
                member.queued = await member.engine.queue_length()

    def _why(self, members: Iterable[Member]) -> RylaError:
        troubles = [member.trouble for member in members if member.trouble is not None]
        if len(troubles) == 1:
            return troubles[0]
        told = "; ".join(error.message.rstrip(".") for error in troubles)
        return RylaError("engine_unreachable", f"No engine can be used: {told or 'none is left'}.")
