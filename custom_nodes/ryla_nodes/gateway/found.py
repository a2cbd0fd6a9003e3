"""A job that was looked for by its id."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RylaError
from .job import JobSpec, LiveJob, Outcome


@dataclass(frozen=True)
class Found:
    """A job by its id: alive (or fresh) in this process, or as it is stored."""

    id: str
    spec: JobSpec
    live: LiveJob | None
    stored: Outcome | None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""
        if self.live is None:
            return self.stored
        return self.live.outcome.result() if self.live.outcome.done() else None


def same(found: Found, spec: JobSpec) -> Found:
    """A job that a key was used for before, when it was for the same request.

    Raises:
        RylaError: ``idempotency_conflict``.
    """
    if found.spec.digest != spec.digest:
        raise RylaError("idempotency_conflict", "This Idempotency-Key was used for another request.")
    return found


def unknown(job_id: str) -> RylaError:
    """What is said of a job that is not there, or is another's."""
    return RylaError("job_not_found", f"There is no job {job_id[:60]}.")
