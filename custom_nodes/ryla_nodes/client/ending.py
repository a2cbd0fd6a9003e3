"""How a job is brought to an end before its own: cancel, check that it took effect, say so when it did not.

Newer engines have one atomic call for it. Older ones need the right call for where the job is, and it may move in
between; so every step is followed by a look.
"""

from __future__ import annotations

from enum import Enum

from .actions import Action, AskCancel, CancelAnswer, Dequeue, Interrupt, Sleep
from .look import Look, Where

_REPEAT = 1.0
_LOOKS = (0.03, 0.07, 0.15, 0.25)


class Verdict(Enum):
    """What came of it."""

    UNDECIDED = "undecided"
    ENDED = "ended"
    """The history has the job: how it ended is written there."""
    REMOVED = "removed"
    """In neither queue nor history: it never ran, or the engine forgot it."""
    GIVEN_UP = "given_up"
    """The grace is over and the job may still be there."""


class Ending:
    """The steps of one cancellation, from ``now`` until ``now + grace``.

    ``span``: two looks that miss the job must be this far apart before it counts as removed.
    """

    def __init__(self, look: Look, now: float, grace: float, span: float) -> None:
        self._look, self._span = look, span
        look.restart()
        self._until = now + grace
        self._legacy = False
        self._call: Action | None = AskCancel()
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
            self._call = AskCancel()
        else:
            self._call = Dequeue() if where is Where.PENDING else Interrupt()

    def look_failed(self, now: float) -> None:
        self._look_at = now + _LOOKS[-1]
