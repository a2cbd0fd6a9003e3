"""One job on one engine, from submit to its one terminal state: pure, no I/O, no clock of its own.

Polls decide; websocket events only say when to look. A driver loops over ``next`` (carry the ``Ask`` out, ``feed`` the
answer) and may ``feed`` signals at any time. Whatever the order, loss or repetition of what is fed, there is exactly
one outcome, no later than the deadline plus the grace, and the prompt is never posted again unless the engine was
asked twice and knows nothing of it.
"""

from __future__ import annotations

from enum import Enum

from ..errors import RylaError
from . import failures
from .failures import Subject
from .limits import Ending, Lifetime, Limits, Look, Outage, Pace, QueueWatch, Verdict, Where
from .protocol import (
    Accepted,
    Action,
    Answer,
    Ask,
    CancelAnswer,
    Connection,
    Event,
    HistoryAnswer,
    HistoryEntry,
    LogAnswer,
    LookFailed,
    NotSent,
    Outcome,
    QueueView,
    Rejected,
    Signal,
    Sleep,
    State,
    SubmitAnswer,
)

_QUEUE_PERIOD = {"waiting": 1.0, "running": 3.0}
_RETRY = 0.25
_DEAD_GRACE = 2.0
_REMOVED_SPAN = 0.2


class _Phase(Enum):
    NEW = "new"
    """Nothing of the job is on the engine."""
    RESOLVING = "resolving"
    """The prompt was sent; whether the engine has it is not known."""
    WAITING = "waiting"
    """The engine has the job."""


class JobMachine:
    """The state of one job; times are seconds on one clock of the caller's that never goes back.

    Attributes:
        outcome: the end, once there is one.
        running: whether the engine was seen working on it.
        position: how many jobs are ahead of it in the queue; None when it does not wait there.
    """

    def __init__(
        self,
        subject: Subject,
        lifetime: Lifetime,
        *,
        now: float,
        limits: Limits = Limits(),
        expected: float | None = None,
        attach: bool = False,
        earlier: HistoryEntry | None = None,
    ) -> None:
        """Prepare to submit, or with ``attach`` to take up a prompt that an earlier process may have submitted.

        Args:
            lifetime: its deadline, and whether it is cancelled; looked at again and again.
            expected: how many seconds the job should run by earlier experience.
            earlier: what the history had under this id before.
        """
        self.outcome: Outcome | None = None
        self.running = False
        self.position: int | None = None
        self._subject, self._lifetime, self._limits = subject, lifetime, limits
        self._earlier = earlier
        self._phase = _Phase.RESOLVING if attach else _Phase.NEW
        self._look, self._queue = Look(subject.prompt_id), QueueWatch(subject.prompt_id)
        self._pace = Pace(now, expected)
        self._quick_at = self._full_at = self._retry_at = now
        self._log_at = now + limits.doubt_after
        self._outage = Outage(limits)
        self._submits = 0
        self._refusal: RylaError | None = None
        self._connection_lost = False
        self._warnings: tuple[str, ...] = ()
        self._ending: Ending | None = None
        self._ends_as: State | None = None
        self._error: RylaError | None = None

    def next(self, now: float) -> Action:
        """What to do next; answer it before you ask again. An ``Outcome`` is the end."""
        self._heed_cancellation(now)
        if now >= self._lifetime.deadline:
            self._end(State.TIMED_OUT, now)
        if self.outcome is None and self._ending is not None:
            self._conclude(self._ending.verdict(now))
        if self.outcome is not None:
            return self.outcome
        if self._ending is not None:
            return self._ending.next(now)
        if self._phase is not _Phase.NEW:
            return self._watch(now)
        return Sleep(min(self._retry_at, self._lifetime.deadline)) if now < self._retry_at else self._submit(now)

    def _heed_cancellation(self, now: float) -> None:
        if self._lifetime.cancelled:
            self._end(State.CANCELLED, now)

    def _submit(self, now: float) -> Action:
        # Until the answer is in, the prompt may be on the engine: whatever happens now is resolved by its id.
        self._phase = _Phase.RESOLVING
        self._connection_lost = self._pace.heard = False
        self._full_at = now
        self._look.restart()
        return Ask.SUBMIT

    def _watch(self, now: float) -> Action:
        if self._queue.duplicate:
            self._queue.duplicate = False
            return Ask.DEQUEUE
        if self._look.half_done or now >= self._full_at:
            return self._look.next()
        if self._phase is _Phase.RESOLVING:
            return Sleep(min(self._full_at, self._lifetime.deadline))
        if now >= self._quick_at:
            return Ask.HISTORY
        if now >= self._log_at:
            return Ask.LOG
        return Sleep(min(self._quick_at, self._full_at, self._log_at, self._lifetime.deadline))

    def feed(self, answer: Answer | Signal, now: float) -> None:
        """Take the answer to the last ``Ask``, or a signal of the websocket."""
        self._heed_cancellation(now)
        if self.outcome is not None:
            return
        if isinstance(answer, Event):
            self._heard(answer, now)
        elif isinstance(answer, Connection):
            self._connected(answer, now)
        elif isinstance(answer, QueueView):
            self._saw_queue(answer, now)
        elif isinstance(answer, HistoryAnswer):
            entry = self._proved(answer.entry)
            self._found(self._look.history(entry, now), entry, now)
        elif isinstance(answer, LookFailed):
            self._look_failed(answer, now)
        elif isinstance(answer, CancelAnswer):
            if self._ending is not None:
                self._ending.answered(answer, now)
        elif isinstance(answer, LogAnswer):
            self._log_at = now + self._limits.doubt_after
            if answer.worker_died:
                self._worker_is_dead(now)
        else:
            self._submitted(answer, now)

    def _submitted(self, answer: SubmitAnswer, now: float) -> None:
        if self._ending is not None and isinstance(answer, Rejected | NotSent):
            self._conclude(Verdict.REMOVED)
        elif isinstance(answer, Accepted):
            self._submits += 1
            self._accepted(answer, now)
        elif isinstance(answer, Rejected):
            self._fail(answer.error, never_started=answer.movable)
        elif isinstance(answer, NotSent):
            if self._phase is _Phase.RESOLVING:
                self._not_sent(answer, now)
        else:
            self._submits += 1
            self._refusal = answer.error
            self._full_at = now

    def _not_sent(self, answer: NotSent, now: float) -> None:
        self._phase = _Phase.NEW
        self._retry_at = now + _RETRY
        self._outage.note(True, now)
        if self._outage.absent(now) >= self._limits.patience:
            self._fail(failures.unreachable(self._subject.server, answer.why), never_started=True)

    def _fail(self, error: RylaError, *, never_started: bool) -> None:
        self.outcome = Outcome(State.FAILED, error, never_started=never_started)

    def _accepted(self, answer: Accepted, now: float) -> None:
        self._wait(now)
        self._warnings = failures.left_out(self._subject, answer.node_errors)
        dropped = failures.dropped_outputs(self._subject, answer.node_errors)
        if dropped:
            error = failures.partial_validation(self._subject, answer.node_errors, dropped)
            self._end(State.FAILED, now, error)

    def _wait(self, now: float) -> None:
        """The engine has the job: settle into polling."""
        if self._phase is _Phase.WAITING:
            return
        self._phase = _Phase.WAITING
        self._pace.accepted_at = now
        self._progressed(now)
        self._quick_at = now + self._pace.delay(now)
        self._full_at = now + _RETRY

    def _saw_queue(self, view: QueueView, now: float) -> None:
        self._outage.over(now)
        where = self._look.queue(view)
        if where in (Where.PENDING, Where.RUNNING):
            if self._phase is _Phase.RESOLVING:
                self._wait(now)
            self._locate(view, where, now)
        self._found(where, None, now)

    def _locate(self, view: QueueView, where: Where, now: float) -> None:
        if self._queue.see(view, now):
            self._progressed(now)
        self.position = self._queue.position
        if where is Where.RUNNING:
            self._runs(now)
        elif self._queue.idle(now) >= self._limits.idle_queue:
            self._worker_is_dead(now)

    def _found(self, where: Where, entry: HistoryEntry | None, now: float) -> None:
        self._outage.over(now)
        if entry is not None:
            self._conclude(Verdict.ENDED, entry)
        elif self._ending is not None:
            self._ending.seen(where, now)
        elif where is Where.MISSING:
            self._missed(now)
        elif not self._look.half_done:
            self._quick_at = now + self._pace.delay(now)
            if where is not Where.UNKNOWN:
                self._full_at = now + _QUEUE_PERIOD["running" if self.running else "waiting"]

    def _proved(self, entry: HistoryEntry | None) -> HistoryEntry | None:
        """The entry, when it is of this submit: under an id that was used before stands the record of that job."""
        if entry is None:
            return None
        if entry.nonce and self._subject.nonce:
            return entry if entry.nonce == self._subject.nonce else None
        if entry != self._earlier:
            return entry
        # An engine that keeps neither times nor nonces: then only the same graph gives the same record.
        return entry if self._look.half_done and entry.graph == self._subject.graph else None

    def _missed(self, now: float) -> None:
        resolving = self._phase is _Phase.RESOLVING
        span = self._limits.resolve_span if resolving else self._limits.miss_span
        self._full_at = self._quick_at = now + span / 2
        if not self._look.gone(span):
            return
        if not resolving or self._submits == 0:
            self.outcome = Outcome(State.LOST, failures.lost(self._subject, restarted=self._connection_lost))
        elif self._refusal is not None or self._submits >= self._limits.submits:
            error = self._refusal or failures.never_arrived(self._subject, self._submits)
            self._fail(error, never_started=True)
        else:
            self._phase, self._retry_at = _Phase.NEW, now

    def _look_failed(self, answer: LookFailed, now: float) -> None:
        self._look.half_done = False
        self._outage.note(answer.absent, now)
        self._connection_lost = self._connection_lost or answer.absent
        if self._ending is not None:
            self._ending.look_failed(now)
            return
        self._full_at = self._quick_at = now + _RETRY
        outage = self._outage.lasted(now)
        if outage is not None:
            error = failures.gone(self._subject, answer.why, outage)
            self.outcome = Outcome(State.LOST, error, verified=False)

    def _connected(self, connection: Connection, now: float) -> None:
        self._pace.heard = False
        self._connection_lost = self._connection_lost or not connection.open
        # Opened or closed, events were missed.
        self._full_at = min(self._full_at, now)

    def _heard(self, event: Event, now: float) -> None:
        self._pace.heard = True
        self._outage.over(now)
        if event.prompt_id != self._subject.prompt_id or self._ending is not None:
            return
        # It may come before the answer to the submit: the engine has the job.
        self._wait(now)
        self._progressed(now)
        if not event.terminal:
            self._runs(now)
        self._pace.hear(event, now)
        if event.terminal:
            self._quick_at = now + self._pace.delay(now)

    def _runs(self, now: float) -> None:
        if not self.running:
            self.running = True
            self._pace.start(now)
            self._progressed(now)

    def _progressed(self, now: float) -> None:
        self._log_at = now + self._limits.doubt_after

    def _worker_is_dead(self, now: float) -> None:
        # What a dead worker holds cannot be taken from it; what waits for one is gone at once.
        grace = min(_DEAD_GRACE, self._limits.cancel_grace)
        self._end(State.FAILED, now, failures.zombie(self._subject), grace)

    def _end(self, state: State, now: float, error: RylaError | None = None, grace: float | None = None) -> None:
        """Bring the job to an end: at once when nothing of it is on the engine, else by cancelling it there."""
        if self._ending is not None or self.outcome is not None:
            return
        self._ends_as, self._error = state, error
        # A submit without an answer may still be on its way.
        span = self._limits.resolve_span if self._phase is _Phase.RESOLVING else _REMOVED_SPAN
        self._ending = Ending(self._look, now, self._limits.cancel_grace if grace is None else grace, span)
        if self._phase is _Phase.NEW:
            self._conclude(Verdict.REMOVED)

    def _conclude(self, verdict: Verdict, entry: HistoryEntry | None = None) -> None:
        if verdict is not Verdict.UNDECIDED:
            self.outcome = self._outcome(verdict, entry)

    def _outcome(self, verdict: Verdict, entry: HistoryEntry | None) -> Outcome:
        verified = verdict is not Verdict.GIVEN_UP
        if self._error is not None:
            never_started = verdict is Verdict.REMOVED and not self.running
            return Outcome(State.FAILED, self._error, entry, never_started=never_started, verified=verified)
        if entry is not None:
            error = failures.of_entry(self._subject, entry)
            if error is None:
                return Outcome(State.SUCCEEDED, None, entry, warnings=self._warnings)
            if self._ends_as is None or error.code != "interrupted_elsewhere":
                return Outcome(State.FAILED, error, entry)
        if self._ends_as is State.CANCELLED:
            return Outcome(State.CANCELLED, failures.cancelled(self._subject, verified), entry, verified=verified)
        error = failures.timed_out(self._subject, self._lifetime.timeout, self.running, verified)
        return Outcome(State.TIMED_OUT, error, entry, verified=verified)
