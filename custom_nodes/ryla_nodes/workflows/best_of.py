"""The best of several pictures of one job: which seeds are tried, and which node's face score decides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import RylaError
from .parameter import Parameter

NAME = "best_of"
MOST = 16
_BITS = 2**63


@dataclass(frozen=True)
class BestOf:
    """How the picture of a job is chosen.

    Attributes:
        score: the node that reports the face score; the picture with the highest one is kept.
        seeds: one of each picture; the first is the job's own.
        places: node id and input of all that take the seed.
    """

    score: str
    seeds: tuple[int, ...]
    places: tuple[tuple[str, str], ...]


def parameter() -> Parameter:
    """What every workflow that declares a face score takes. No node has it: the client runs the job so often."""
    told = f"Makes this many pictures, 1 to {MOST}, and keeps the one whose face is most like the reference's."
    return Parameter(NAME, "int", told, (), default=1, min=1, max=MOST)


def seeds(first: int, count: int, low: int = 0, high: int = _BITS - 1) -> tuple[int, ...]:
    """``count`` different seeds in ``low`` .. ``high``, the same for the same ``first``; fewer where there are no more.

    The first is the job's own; number k (from 2) is the first 8 bytes of SHA-256 of "FIRST-k", big-endian, without the
    top bit. One that lies outside of the range is taken modulo its width; one that is there already is passed over.
    """
    found, number, width = [first], 2, high - low + 1
    while len(found) < min(count, width):
        digest = hashlib.sha256(f"{first}-{number}".encode()).digest()
        seed = low + (int.from_bytes(digest[:8], "big") % _BITS - low) % width
        found += [] if seed in found else [seed]
        number += 1
    return tuple(found)


def require_score(workflow: str, parameters: Iterable[Parameter], scored: Callable[[], Iterable[str]]) -> None:
    """Refuse the parameter for a workflow that gives no face score.

    Args:
        scored: the names of the workflows that give one.

    Raises:
        RylaError: ``unknown_parameter``.
    """
    if any(parameter.name == NAME for parameter in parameters):
        return
    others = ", ".join(scored())
    known = f"workflows that give one: {others}" if others else "no workflow here gives one"
    message = f"{workflow} gives no face score, so it has no {NAME}; {known}."
    raise RylaError("unknown_parameter", message, parameter=NAME, workflow=workflow)
