"""What the job state machine asks for, and what it can be told.

The machine does no I/O. A driver takes one action at a time from ``JobMachine.next``, carries it out and feeds the
answer back; websocket events may be fed at any time in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import RylaError
from .protocol import Event, HistoryEntry, QueueView


class State(str, Enum):
    """How a job ends. Exactly one of them, once."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt to run a job.

    Attributes:
        state: how it ended.
        error: why, for every state but ``succeeded``.
        entry: the engine's own record of it, when it has one.
        never_started: the job provably never ran on this engine, so that it may run on another.
        verified: the engine confirmed that nothing of the job goes on; False: it may still be running there.
        warnings: what the user should know of a success.
    """

    state: State
    error: RylaError | None = None
    entry: HistoryEntry | None = None
    never_started: bool = False
    verified: bool = True
    warnings: tuple[str, ...] = ()


# --- Actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submit:
    """POST the prompt. Answer: Accepted, Rejected, NotSent or Unclear."""


@dataclass(frozen=True)
class LookQueue:
    """GET /queue. Answer: QueueView or LookFailed."""


@dataclass(frozen=True)
class LookHistory:
    """GET /history/{id}. Answer: HistoryAnswer or LookFailed."""


@dataclass(frozen=True)
class AskCancel:
    """POST /api/jobs/{id}/cancel. Answer: CancelAnswer."""


@dataclass(frozen=True)
class Dequeue:
    """POST /queue with ``delete``. Answer: CancelAnswer."""


@dataclass(frozen=True)
class Interrupt:
    """POST /interrupt for this prompt id. Answer: CancelAnswer."""


@dataclass(frozen=True)
class ReadLog:
    """Ask the engine's log whether its worker thread died. Answer: LogAnswer."""


@dataclass(frozen=True)
class Sleep:
    """Nothing to do before ``until`` (the driver's clock), unless an event comes."""

    until: float


@dataclass(frozen=True)
class Finished:
    """The job ended."""

    outcome: Outcome


Action = Submit | LookQueue | LookHistory | AskCancel | Dequeue | Interrupt | ReadLog | Sleep | Finished

# --- Answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accepted:
    """The engine queued the prompt. ``node_errors``: nodes that failed its validation although it said 200."""

    node_errors: Mapping[str, Any]


@dataclass(frozen=True)
class Rejected:
    """The engine refused the prompt: nothing was queued. ``movable``: another engine might take it."""

    error: RylaError
    movable: bool = False


@dataclass(frozen=True)
class NotSent:
    """No connection: the prompt provably never reached the engine."""

    why: str


@dataclass(frozen=True)
class Unclear:
    """The prompt was sent and no answer came back, or one that does not tell: it may be queued or not.

    ``error`` is what to report when it turns out not to be; None: then post it again.
    """

    why: str
    error: RylaError | None = None


@dataclass(frozen=True)
class HistoryAnswer:
    """The engine's record of the job; None while it has none."""

    entry: HistoryEntry | None


@dataclass(frozen=True)
class LookFailed:
    """A look brought nothing. ``refused``: nobody listens there (anything else may be an engine that is busy)."""

    why: str
    refused: bool = False


class CancelAnswer(Enum):
    """How the engine answered a cancel, dequeue or interrupt."""

    DONE = "done"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


@dataclass(frozen=True)
class LogAnswer:
    """Whether the log says that the engine's worker thread died; False also when there is no log to read."""

    worker_died: bool


@dataclass(frozen=True)
class Connection:
    """The websocket opened or closed."""

    open: bool


Answer = (
    Accepted | Rejected | NotSent | Unclear | QueueView | HistoryAnswer | LookFailed | CancelAnswer | LogAnswer
)  # fmt: skip
Signal = Event | Connection
