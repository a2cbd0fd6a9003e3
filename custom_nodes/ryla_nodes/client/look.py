"""Where a job is on its engine, asked in the only order that cannot miss it: the queue, then the history.

An engine moves a job from queue to history in one step, so a job that is in neither, asked in this order, is in
neither. One such miss may still be a hiccup (a proxy's stale answer); two of them, apart in time, are a fact.
"""

from __future__ import annotations

from enum import Enum

from .actions import LookHistory, LookQueue
from .protocol import HistoryEntry, QueueView


class Where(Enum):
    """What a look found."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    MISSING = "missing"
    UNKNOWN = "unknown"


class Look:
    """Looks at one job and counts the misses in a row."""

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._absent_from_queue = False
        self._misses: list[float] = []

    @property
    def half_done(self) -> bool:
        """Whether the queue was asked and the history has to be."""
        return self._absent_from_queue

    def next(self) -> LookQueue | LookHistory:
        """The next request of a full look."""
        return LookHistory() if self._absent_from_queue else LookQueue()

    def queue(self, view: QueueView) -> Where:
        """Take the queue's answer; UNKNOWN means that the history has to be asked now."""
        if view.count(self._prompt_id) == 0:
            self._absent_from_queue = True
            return Where.UNKNOWN
        self.restart()
        return Where.RUNNING if self._prompt_id in view.running else Where.PENDING

    def history(self, entry: HistoryEntry | None, now: float) -> Where:
        """Take the history's answer; UNKNOWN when the queue was not asked before it."""
        after_queue, self._absent_from_queue = self._absent_from_queue, False
        if entry is not None:
            self._misses.clear()
            return Where.FINISHED
        if not after_queue:
            return Where.UNKNOWN
        self._misses.append(now)
        return Where.MISSING

    def failed(self) -> None:
        """The request brought nothing: this look does not count."""
        self._absent_from_queue = False

    def restart(self) -> None:
        """Forget the misses so far."""
        self._absent_from_queue = False
        self._misses.clear()

    def gone(self, span: float) -> bool:
        """Whether the job was missed at least twice, ``span`` seconds apart."""
        return len(self._misses) >= 2 and self._misses[-1] - self._misses[0] >= span


class QueueWatch:
    """What else the queue tells of one job: its place, a second copy of it, and whether anybody serves the queue."""

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._idle_since: float | None = None
        self.position: int | None = None
        self.duplicate = False

    def see(self, view: QueueView, now: float) -> bool:
        """Take a view that has the job; whether its place changed."""
        pending = self._prompt_id in view.pending
        # Posted twice because the first one arrived after all: the copy that waits has to go.
        self.duplicate = pending and view.count(self._prompt_id) > 1
        if view.running or not pending:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        before, self.position = self.position, None
        if pending and self._prompt_id not in view.running:
            self.position = view.pending.index(self._prompt_id) + len(view.running)
        return before != self.position

    def idle(self, now: float) -> float:
        """For how many seconds the job has waited in a queue where nothing runs."""
        return 0.0 if self._idle_since is None else now - self._idle_since


class Outage:
    """For how long, without a break, nobody has listened at the engine's address."""

    def __init__(self) -> None:
        self._since: float | None = None

    def over(self) -> None:
        """The engine answered."""
        self._since = None

    def note(self, refused: bool, now: float) -> float:
        """Take a failed call; the outage's seconds so far. An engine that is slow or breaks off still listens."""
        if not refused:
            self._since = None
            return 0.0
        self._since = now if self._since is None else self._since
        return now - self._since
