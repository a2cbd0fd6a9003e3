"""Is it the same person? Cosine of face embeddings, and honest statistics over many pictures.

Score with a recogniser other than the one that InstantID is conditioned on (glintr100), or the student is graded with
its own answer sheet. Genuine photos of one person score about 0.46 to 0.75, so a raw cosine of 0.85 is no sane goal:
report the pass rate at a fixed threshold, and the mean relative to genuine pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .faces import FaceAnalyzer, Picture, select_face
from .geometry import Array
from .proportion import THRESHOLD, wilson_interval


def cosine(a: Array, b: Array) -> float:
    """Cosine of two embeddings, in [-1, 1]; 0 when one of them is 0."""
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / scale if scale else 0.0


@dataclass(frozen=True)
class Score:
    """One output picture against one person's references. ``similarity`` is None when no face was found."""

    person: str
    output: str
    similarity: float | None
    threshold: float = THRESHOLD

    @property
    def passed(self) -> bool:
        return self.similarity is not None and self.similarity >= self.threshold


@dataclass(frozen=True)
class Summary:
    """Statistics over many scores.

    A detector miss counts as a failure. ``mean`` is over the faces that were found; ``genuine_mean`` over the pairs of
    reference photos of one person, and ``relative`` their quotient (None without at least one such pair).
    """

    total: int
    passed: int
    missed: int
    low: float
    high: float
    mean: float | None
    genuine_mean: float | None

    @property
    def pass_rate(self) -> float:
        return self.passed / self.total if self.total else 0.0

    @property
    def relative(self) -> float | None:
        if self.mean is None or not self.genuine_mean:
            return None
        return self.mean / self.genuine_mean


def summarize(scores: Sequence[Score], references: Sequence[Sequence[Array]]) -> Summary:
    """Sum up ``scores``; ``references`` holds the embeddings of each person's reference photos."""
    found = [score.similarity for score in scores if score.similarity is not None]
    passed = sum(score.passed for score in scores)
    genuine = [cosine(a, b) for photos in references for a, b in combinations(photos, 2)]
    low, high = wilson_interval(passed, len(scores))
    return Summary(
        total=len(scores),
        passed=passed,
        missed=len(scores) - len(found),
        low=low,
        high=high,
        mean=float(np.mean(found)) if found else None,
        genuine_mean=float(np.mean(genuine)) if genuine else None,
    )


def embedding(analyzer: FaceAnalyzer, picture: Picture) -> Array | None:
    """Scoring embedding (512,) of the largest face of ``picture``; None when there is none."""
    faces = analyzer.faces(picture)
    return analyzer.scoring_embedding(picture, faces[0]) if faces else None


def reference_embedding(analyzer: FaceAnalyzer, picture: Picture, where: str) -> Array:
    """Like ``embedding``, for a picture that must show a face of at least 64 px: raises like ``select_face``."""
    face = select_face(analyzer.faces(picture), order="size", index=0, where=where)
    return analyzer.scoring_embedding(picture, face)


@dataclass(frozen=True)
class Match:
    """A picture beside the reference that it is most like, by number; ``similarity`` is None where it has no face."""

    reference: int
    similarity: float | None


def compare(analyzer: FaceAnalyzer, references: Sequence[Picture], pictures: Sequence[Picture]) -> list[Match]:
    """For each picture its best cosine with one of the references."""
    known = [reference_embedding(analyzer, picture, "the reference photo") for picture in references]
    return [_match(known, embedding(analyzer, picture)) for picture in pictures]


def _match(references: Sequence[Array], candidate: Array | None) -> Match:
    if candidate is None:
        return Match(0, None)
    scores = [cosine(reference, candidate) for reference in references]
    return Match(scores.index(max(scores)), max(scores))


def best(references: Sequence[Array], candidate: Array | None) -> float | None:
    """Highest cosine of ``candidate`` with one of ``references``; None without a face."""
    return None if candidate is None else max(cosine(reference, candidate) for reference in references)
