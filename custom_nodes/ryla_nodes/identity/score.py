"""Compare faces of pictures: the largest face of each, by the scoring recogniser."""

from __future__ import annotations

from collections.abc import Sequence

from .faces import FaceAnalyzer, Picture, select_face
from .geometry import Array
from .similarity import cosine


def embedding(analyzer: FaceAnalyzer, picture: Picture) -> Array | None:
    """Scoring embedding (512,) of the largest face of ``picture``; None when there is none."""
    faces = analyzer.faces(picture)
    return analyzer.scoring_embedding(picture, faces[0]) if faces else None


def reference_embedding(analyzer: FaceAnalyzer, picture: Picture, where: str) -> Array:
    """Like ``embedding``, for a picture that must show a face of at least 64 px: raises like ``select_face``."""
    face = select_face(analyzer.faces(picture), order="size", index=0, where=where)
    return analyzer.scoring_embedding(picture, face)


def compare(analyzer: FaceAnalyzer, references: Sequence[Picture], pictures: Sequence[Picture]) -> list[float | None]:
    """For each picture its best cosine with one of the references; None where it shows no face."""
    known = [reference_embedding(analyzer, picture, "the reference photo") for picture in references]
    return [best(known, embedding(analyzer, picture)) for picture in pictures]


def best(references: Sequence[Array], candidate: Array | None) -> float | None:
    """Highest cosine of ``candidate`` with one of ``references``; None without a face."""
    return None if candidate is None else max(cosine(reference, candidate) for reference in references)
