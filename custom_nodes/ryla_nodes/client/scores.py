"""Face scores: what a job's node reported, and those of the pictures from which the best was taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RylaError


@dataclass(frozen=True)
class Candidate:
    """One of the pictures from which the best was taken.

    Attributes:
        similarity: its face score, -1..1 (0 also without a face); None when there is none.
        error: why it was not made; None when it was.
        chosen: whether it is the one that was kept.
    """

    seed: int
    similarity: float | None = None
    error: RylaError | None = None
    chosen: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        error = {"error": self.error.as_dict()} if self.error else {}
        return {"seed": self.seed, "similarity": self.similarity, "chosen": self.chosen, **error}

    def line(self) -> str:
        """In a few words."""
        score = f"failed ({self.error.code})" if self.error else "no score"
        return f"{score if self.similarity is None else f'{self.similarity:.3f}'} (seed {self.seed})"


def similarity(outputs: Mapping[str, Mapping[str, Any]], node_id: str) -> float | None:
    """The face score that a node reported, the lowest of several; None when it reported none."""
    values = outputs.get(node_id, {}).get("face_similarity") if node_id else None
    numbers = [float(value) for value in values or () if isinstance(value, int | float)]
    return min(numbers) if numbers else None
