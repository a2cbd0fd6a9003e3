"""Many jobs on all engines: every row is made exactly once, also when the runner or an engine dies in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..client.async_client import BaseAsyncClient
from ..client.polling import OnProgress, Progress
from ..client.protocol import State
from ..client.results import Result, save
from ..errors import RylaError
from ..workflows.workflow import BoundPrompt
from .fingerprint import Fingerprint
from .journal import Journal
from .naming import Claim, Claims
from .rows import Row

_RERUNS = 2
_NO_ENGINE = (
    "engine_unreachable", "engine_forbidden", "not_comfyui", "zombie_worker",
    "gateway_gone", "not_a_gateway", "unauthorized", "shutting_down",
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A row with its prompt and the path of its first picture.

    Attributes:
        made: its pictures, when an earlier run made them.
        own: what is left of the pictures of an earlier run.
    """

    row: Row
    prompt: BoundPrompt
    path: Path
    fingerprint: Fingerprint
    made: tuple[Path, ...] = ()
    own: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Change:
    """News of one row: its progress while it goes on, its result at the end; neither when it was done before."""

    planned: Planned
    progress: Progress | None = None
    result: Result | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Summary:
    """``files``: index of each row that is made -> its pictures. ``failed``: the results of those that are not."""

    files: dict[int, tuple[Path, ...]]
    failed: tuple[Result, ...]


class Batch:
    """Runs the rows of a plan on the client's engines.

    Args:
        journal: opened; it remembers what was done before.
        claims: where every path of the plan is claimed.
        timeout: the hard deadline of each job, in seconds.
        wait: how long to wait while no engine can be used, in seconds.
        on_change: called in the event loop.
    """

    def __init__(
        self,
        client: BaseAsyncClient,
        journal: Journal,
        claims: Claims,
        *,
        timeout: float,
        wait: float,
        on_change: Callable[[Change], None],
    ) -> None:
        self._client, self._journal, self._claims = client, journal, claims
        self._timeout, self._wait, self._report = timeout, wait, on_change
        self._stop: RylaError | None = None
        self._files: dict[int, tuple[Path, ...]] = {}
        self._failed: list[Result] = []

    async def run(self, plan: Sequence[Planned]) -> Summary:
        """Run what is not done yet.

        Raises:
            RylaError: what stops the whole batch: a cancellation, no engine at all, a file that cannot be written.
                What is made stays made; the same plan goes on from there.
        """
        for planned in plan:
            if planned.made:
                self._files[planned.row.index] = planned.made
                self._report(Change(planned, files=planned.made))
        # Rows that an earlier runner had submitted come first: they may be done.
        waiting = [planned for planned in plan if not planned.made]
        waiting.sort(key=lambda planned: self._journal.submission(planned.row, planned.fingerprint) is None)
        queue = iter(waiting)
        # One more than there are places, so that the next job is ready when a place is.
        await asyncio.gather(*(self._worker(queue) for _ in range(len(self._client.servers) * self._client.depth + 1)))
        if self._stop is not None:
            raise self._stop
        return Summary(dict(sorted(self._files.items())), tuple(self._failed))

    async def _worker(self, queue: Iterator[Planned]) -> None:
        for planned in queue:
            try:
                await self._row(planned)
            except RylaError as error:
                self._stop = self._stop or error
            if self._stop is not None:
                return

    async def _row(self, planned: Planned) -> None:
        result = await self._taken_up(planned) or await self._run(planned)
        if result.state is State.CANCELLED or _no_engine(result.error):
            # Not written down: the row is as it was, and the next run of the batch finds out what became of it.
            result.required()
        names = Claim(self._claims, planned.path, planned.own)
        files = await asyncio.to_thread(save, result.pictures, planned.path, names) if result.ok else []
        self._journal.ended(planned.row, planned.fingerprint, result, files)
        if result.ok:
            self._files[planned.row.index] = tuple(files)
        else:
            self._failed.append(result)
        self._report(Change(planned, result=result, files=tuple(files)))

    async def _taken_up(self, planned: Planned) -> Result | None:
        """What became of a row that was submitted before; None when no engine of ours has it."""
        submission = self._journal.submission(planned.row, planned.fingerprint)
        if submission is None or submission.server not in self._client.servers:
            return None
        job = self._client.attach(
            planned.prompt, submission, timeout=self._timeout, on_progress=self._progress_of(planned)
        )
        result = await job.result()
        # One that was interrupted is what our own Ctrl-C left.
        interrupted = result.error is not None and result.error.code == "interrupted_elsewhere"
        return None if result.state is State.LOST or interrupted else result

    async def _run(self, planned: Planned) -> Result:
        job = self._client.start(
            planned.prompt,
            timeout=self._timeout,
            depth=self._client.depth,
            wait=self._wait,
            reruns=_RERUNS,
            on_progress=self._progress_of(planned),
            on_submit=lambda submission: self._journal.submitted(
                planned.row, planned.fingerprint, submission, planned.prompt.seed
            ),
        )
        return await job.result()

    def _progress_of(self, planned: Planned) -> OnProgress:
        return lambda progress: self._report(Change(planned, progress=progress))


def _no_engine(error: RylaError | None) -> bool:
    return error is not None and error.code in _NO_ENGINE
