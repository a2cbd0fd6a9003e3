"""How patient the runner is: limits, when to look at a job, when silence is a fact, how long to insist on a cancel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from .protocol import Action, Ask, CancelAnswer, Event, HistoryEntry, QueueView, Sleep, Step

_RUSH = (0.0, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5)
_NEAR = 0.12
_SLOWEST = 1.0
_REPEAT = 1.0
_HANGING = 5.0
_LOOKS = (0.03, 0.07, 0.15, 0.25)


@dataclass(frozen=True)
class Limits:
    """Times in seconds (``submits``: a count).

    Attributes:
        patience: how long to try to reach an engine that refuses connections, before anything was sent.
        gone_after: how long no engine may be at the address of an accepted job before it counts as lost: nobody
            listens, the name is unknown, or a proxy says that there is nothing behind it.
        silent_after: the same for an engine that listens and answers nothing that can be used.
        miss_span: two looks that miss an accepted job must be this far apart before it counts as lost.
        resolve_span: the same after a submit without an answer, before the prompt is posted again.
        submits: how often one prompt is posted at most.
        idle_queue: a queue that waits this long with nothing running has no worker any more.
        doubt_after: with no sign of progress for this long, ask the engine's log whether its worker died.
        cancel_grace: how long to wait for a cancellation to take effect, after Ctrl-C and after the deadline.
        connect: how long a TCP connection may take.
        answer: how long an engine may take over one small answer, from the first byte sent to the last received.
        submit: the same for a submit, which the engine validates first.
        transfer: the same for one uploaded or downloaded file.
        socket: how long to wait for the websocket before submitting without it.
    """

    patience: float = 5.0
    gone_after: float = 30.0
    silent_after: float = 300.0
    miss_span: float = 0.5
    resolve_span: float = 2.0
    submits: int = 4
    idle_queue: float = 15.0
    doubt_after: float = 30.0
    cancel_grace: float = 10.0
    connect: float = 3.0
    answer: float = 10.0
    submit: float = 30.0
    transfer: float = 120.0
    socket: float = 1.0


@dataclass
class Lifetime:
    """What ends a job on our side; seconds on one clock of the caller's.

    Attributes:
        timeout: how long it may take from the moment that it has an engine.
        deadline: when it has to be over; infinite until ``begin``.
        cancelled: whether its user has stopped it.
    """

    timeout: float
    deadline: float = math.inf
    cancelled: bool = False

    def begin(self, now: float) -> None:
        """It has an engine."""
        self.deadline = now + self.timeout


class Where(Enum):
    """What a look at a job found."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    MISSING = "missing"
    UNKNOWN = "unknown"


class Look:
    """Looks at one job on its engine, in the only order that cannot miss it, and counts the misses in a row.

    An engine moves a job from queue to history in one step, so a job that is in neither, asked in this order, is in
    neither. One such miss may still be a hiccup (a proxy's stale answer); two of them, apart in time, are a fact.

    Attributes:
        half_done: the queue was asked, and the history has to be.
    """

    def __init__(self, prompt_id: str) -> None:
        self.half_done = False
        self._prompt_id = prompt_id
        self._misses: list[float] = []

    def next(self) -> Ask:
        """The next request of a full look."""
        return Ask.HISTORY if self.half_done else Ask.QUEUE

    def queue(self, view: QueueView) -> Where:
        """Take the queue's answer; UNKNOWN means that the history has to be asked now."""
        if view.count(self._prompt_id) == 0:
            self.half_done = True
            return Where.UNKNOWN
        self.restart()
        return Where.RUNNING if self._prompt_id in view.running else Where.PENDING

    def history(self, entry: HistoryEntry | None, now: float) -> Where:
        """Take the history's answer; UNKNOWN when the queue was not asked before it."""
        after_queue, self.half_done = self.half_done, False
        if entry is not None:
            self._misses.clear()
            return Where.FINISHED
        if not after_queue:
            return Where.UNKNOWN
        self._misses.append(now)
        return Where.MISSING

    def restart(self) -> None:
        """Forget the misses so far."""
        self.half_done = False
        self._misses.clear()

    def gone(self, span: float) -> bool:
        """Whether the job was missed at least twice, ``span`` seconds apart."""
        return len(self._misses) >= 2 and self._misses[-1] - self._misses[0] >= span


class QueueWatch:
    """What else the queue tells of one job.

    Attributes:
        position: how many jobs are ahead of it; None when it does not wait.
        duplicate: a second copy of it waits and has to go.
    """

    def __init__(self, prompt_id: str) -> None:
        self.position: int | None = None
        self.duplicate = False
        self._prompt_id = prompt_id
        self._idle_since: float | None = None

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
    """For how long, without a break, the engine has answered nothing, and for how long it has been absent."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heard: float | None = None
        self._silent_since: float | None = None
        self._absent_since: float | None = None

    def over(self, now: float) -> None:
        """The engine answered."""
        self._heard = now
        self._silent_since = self._absent_since = None

    def note(self, absent: bool, now: float) -> None:
        """Take a failed call. An engine that is slow or breaks off is still there."""
        self._silent_since = now if self._silent_since is None else self._silent_since
        if not absent:
            self._absent_since = None
        elif self._absent_since is None:
            self._absent_since = now

    def absent(self, now: float) -> float:
        """For how many seconds no engine has been at the address."""
        return 0.0 if self._absent_since is None else now - self._absent_since

    def lasted(self, now: float) -> float | None:
        """After how many seconds the engine counts as gone; None as long as it does not."""
        limits, absent = self._limits, self.absent(now)
        silent = 0.0 if self._silent_since is None else now - self._silent_since
        unheard = now - self._heard if self._heard is not None else silent
        # The last calls to an engine that dies behind a proxy may hang before the proxy knows.
        hung = absent >= limits.gone_after / 2 and unheard >= limits.gone_after + _HANGING
        if absent >= limits.gone_after or hung or silent >= limits.silent_after:
            return max(absent, silent)
        return None


@dataclass
class Pace:
    """How often to look at an accepted job: often where its end is likely, seldom elsewhere, never over a second apart.

    While the websocket talks, a slow poll is enough; when it is silent the pace follows the job's age, so that the
    delay after the end stays near a tenth of the job's own time. Times are seconds on the driver's clock.

    Attributes:
        accepted_at: when the engine took the job.
        expected: how many seconds it should run, by earlier runs; None when unknown.
        expected_end: when it should be ready, by that or by its own progress.
        heard: whether the websocket is open and has said anything since the job was posted.
    """

    accepted_at: float
    expected: float | None = None
    expected_end: float | None = None
    heard: bool = False
    _rush: int | None = None
    _first: tuple[float, Step] | None = None

    def hear(self, event: Event, now: float) -> None:
        """Take a websocket event of this job."""
        if event.terminal:
            # The engine's record may lag a moment behind.
            self._rush = 0
        elif event.step is not None and self.expected is None:
            self._follow(event.step, now)

    def start(self, now: float) -> None:
        """The engine works on the job from now on."""
        if self.expected is not None:
            self.expected_end = now + self.expected

    def _follow(self, step: Step, now: float) -> None:
        """Expect the end of the node by its own speed."""
        if self._first is None or self._first[1].node != step.node:
            self._first = (now, step)
            return
        since, first = self._first
        if step.done > first.done:
            self.expected_end = now + (now - since) / (step.done - first.done) * (step.total - step.done)

    def delay(self, now: float) -> float:
        """Seconds until the next look."""
        if self._rush is not None and self._rush < len(_RUSH):
            self._rush += 1
            return _RUSH[self._rush - 1]
        by_age = _SLOWEST if self.heard else min(_SLOWEST, max(0.1, (now - self.accepted_at) / 10))
        return min(by_age, self._by_expectation(now))

    def _by_expectation(self, now: float) -> float:
        """Near the expected end _NEAR; before it, no longer than to the start of that window."""
        if self.expected_end is None:
            return _SLOWEST
        margin = max(0.2, 0.1 * (self.expected_end - self.accepted_at))
        if now > self.expected_end + 2 * margin:
            return _SLOWEST
        return max(_NEAR, self.expected_end - margin - now)


class Verdict(Enum):
    """What came of a cancellation."""

    UNDECIDED = "undecided"
    ENDED = "ended"
    """The history has the job: how it ended is written there."""
    REMOVED = "removed"
    """In neither queue nor history: it never ran, or the engine forgot it."""
    GIVEN_UP = "given_up"
    """The grace is over and the job may still be there."""


class Ending:
    """How a job is brought to an end before its own, from ``now`` until ``now + grace``.

    Newer engines have one atomic call for it. Older ones need the right call for where the job is, and it may move in
    between; so every step is followed by a look.

    ``span``: two looks that miss the job must be this far apart before it counts as removed.
    """

    def __init__(self, look: Look, now: float, grace: float, span: float) -> None:
        self._look, self._span = look, span
        look.restart()
        self._until = now + grace
        self._legacy = False
        self._call: Ask | None = Ask.CANCEL
        self._asked_at = now
        self._look_at = now
        self._looks = 0

    def verdict(self, now: float) -> Verdict:
        if self._look.gone(self._span):
            return Verdict.REMOVED
        return Verdict.GIVEN_UP if now >= self._until else Verdict.UNDECIDED

    def next(self, now: float) -> Action:
        if self._call is not None:
            call, self._call = self._call, None
            self._asked_at = now
            return call
        if self._look.half_done or now >= self._look_at:
            return self._look.next()
        return Sleep(min(self._look_at, self._until))

    def answered(self, answer: CancelAnswer, now: float) -> None:
        """The engine's answer to the last call; a look follows whatever it was."""
        if answer is CancelAnswer.UNSUPPORTED:
            self._legacy = True
        self._asked_at = now if answer is CancelAnswer.DONE else now - _REPEAT
        self._look_at = now

    def seen(self, where: Where, now: float) -> None:
        """Where the job is after the last call; asks again while it is still there."""
        if where is Where.UNKNOWN:
            return
        self._look_at = now + _LOOKS[min(self._looks, len(_LOOKS) - 1)]
        self._looks += 1
        if where not in (Where.PENDING, Where.RUNNING) or now - self._asked_at < _REPEAT:
            return
        if not self._legacy:
            self._call = Ask.CANCEL
        else:
            self._call = Ask.DEQUEUE if where is Where.PENDING else Ask.INTERRUPT

    def look_failed(self, now: float) -> None:
        self._look_at = now + _LOOKS[-1]
