"""What each way to end means: the outcome of a job that the engine did not end by itself. Pure."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from ..errors import RylaError
from .actions import Outcome, State
from .ending import Verdict
from .failures import Subject, finished
from .protocol import HistoryEntry


class Why(Enum):
    """Why a job is brought to an end; NONE while it goes its own way."""

    NONE = "none"
    CANCEL = "cancel"
    DEADLINE = "deadline"
    PARTIAL = "partial"
    ZOMBIE = "zombie"


def unreachable(subject: Subject, why: str) -> RylaError:
    """Nothing was sent: no connection."""
    return RylaError(
        "engine_unreachable", f"No engine answers at {subject.server}: {why}.", server=subject.server, reason=why
    )


def never_arrived(subject: Subject, submits: int) -> RylaError:
    """The prompt was sent several times and never got into the queue."""
    message = f"{subject.server} was sent the job {submits} times, never answered, and does not have it."
    return RylaError("engine_error", message, server=subject.server, prompt_id=subject.prompt_id)


def zombie(subject: Subject) -> RylaError:
    """The HTTP side of the engine lives, its worker does not."""
    message = f"{subject.server} answers, but its worker is dead: it takes jobs and runs none."
    return RylaError("zombie_worker", message, server=subject.server, prompt_id=subject.prompt_id)


def lost(subject: Subject, *, restarted: bool) -> Outcome:
    """The engine took the job and knows it no longer."""
    facts = {"server": subject.server, "prompt_id": subject.prompt_id}
    if restarted:
        message = f"{subject.server} restarted while it had this job, and no longer knows it."
        return Outcome(State.LOST, RylaError("server_restarted", message, **facts))
    message = (
        f"{subject.server} no longer knows this job, in queue or history: somebody removed it, cleared the history, "
        "or restarted the engine."
    )
    return Outcome(State.LOST, RylaError("job_lost", message, **facts))


def gone(subject: Subject, why: str, seconds: float) -> RylaError:
    """Nobody has listened at the engine's address for long."""
    message = f"{subject.server} went away with this job and has not come back for {seconds:.0f} s: {why}."
    return RylaError("server_gone", message, server=subject.server, prompt_id=subject.prompt_id)


def conclude(
    subject: Subject,
    why: Why,
    verdict: Verdict,
    *,
    entry: HistoryEntry | None,
    error: RylaError | None,
    ran: bool,
    seconds: float,
    warnings: tuple[str, ...],
) -> Outcome:
    """The outcome of a job that ended, was removed, or would not end.

    Args:
        error: what the outcome is, whatever the engine made of the job (a partial validation, a dead worker).
        ran: whether the job was ever seen running.
        seconds: the time that the job had until its deadline, for the message.
        warnings: what to say of a success.
    """
    verified = verdict is not Verdict.GIVEN_UP
    if error is not None:
        return Outcome(
            State.FAILED, error, entry, never_started=verdict is Verdict.REMOVED and not ran, verified=verified
        )
    if entry is not None:
        state, failure = finished(subject, entry)
        if why is Why.NONE or failure is None or failure.code != "interrupted_elsewhere":
            return Outcome(state, failure, entry, warnings=() if failure else warnings)
    if why is Why.CANCEL:
        return replace(_cancelled(subject, verified), entry=entry)
    return Outcome(State.TIMED_OUT, _timed_out(subject, seconds, ran, verified), entry, verified=verified)


def _cancelled(subject: Subject, verified: bool) -> Outcome:
    facts = {"server": subject.server, "prompt_id": subject.prompt_id}
    if verified:
        return Outcome(State.CANCELLED, RylaError("cancelled", f"Cancelled; {subject.server} has stopped it.", **facts))
    message = f"Cancelled here, but {subject.server} did not confirm it: job {subject.prompt_id} may still be running."
    return Outcome(State.CANCELLED, RylaError("cancel_unverified", message, **facts), verified=False)


def _timed_out(subject: Subject, seconds: float, ran: bool, verified: bool) -> RylaError:
    where = "while it ran" if ran else "before it started"
    after = "it was cancelled" if verified else f"{subject.server} did not confirm its cancellation"
    return RylaError(
        "timed_out",
        f"The job on {subject.server} passed its deadline of {seconds:.0f} s {where}; {after}.",
        server=subject.server,
        prompt_id=subject.prompt_id,
        seconds=seconds,
        verified=verified,
    )
