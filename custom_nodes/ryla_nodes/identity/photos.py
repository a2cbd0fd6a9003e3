"""Are these photos fit to be references? One face, large, not in profile, and of one person where several are given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RylaError
from .faces import MIN_FACE, DetectedFace, select_face
from .geometry import Array
from .images import read_photo
from .proportion import THRESHOLD
from .similarity import cosine

if TYPE_CHECKING:
    from .faces import FaceAnalyzer

MAX_YAW = 40.0
"""Degrees to one side beyond which a recogniser sees too little of a face."""
_NOSE = 0.95
_SMALL_PART = 0.25


@dataclass(frozen=True)
class Finding:
    """What is wrong with a photo, or with several of one person.

    Attributes:
        where: the photo or the person.
        code: an error's of the registry, or ``several_faces``, ``profile``, ``two_people``.
        fatal: the photo cannot be used.
    """

    where: str
    code: str
    message: str
    fatal: bool = False


@dataclass(frozen=True)
class Reference:
    """A photo that can be used, and the scoring embedding (512,) of its largest face; None without a recogniser."""

    path: Path
    embedding: Array | None


def yaw(keypoints: Array) -> float:
    """How far a face is turned to one side, in degrees from 0 to 90, from its five keypoints (5, 2).

    The nose's tip stands before the middle of the eyes by about 0.95 of half their distance: turned by ``a`` it moves
    by that times tan(a) of the half distance that is seen, along the line of the eyes.
    """
    left, right, nose = (np.asarray(keypoints[number], float) for number in (0, 1, 2))
    across = right - left
    half = float(np.linalg.norm(across)) / 2
    if half == 0:
        return 90.0
    aside = float(np.dot(nose - (left + right) / 2, across / (2 * half))) / half
    return math.degrees(math.atan(abs(aside) / _NOSE))


def examine(analyzer: FaceAnalyzer, path: Path) -> tuple[Reference | None, list[Finding]]:
    """A photo as a reference, and what is to be said of it; None when it cannot be one."""
    try:
        picture = read_photo(path)
        faces = analyzer.faces(picture)
        face = select_face(faces, order="size", index=0, where=str(path))
    except RylaError as error:
        return None, [Finding(path.name, error.code, error.message, fatal=True)]
    findings = list(_remarks(path, faces))
    try:
        embedding: Array | None = analyzer.scoring_embedding(picture, face)
    except RylaError as error:
        embedding = None
        findings.append(Finding(path.name, error.code, f"{error.message} {error.hint}".strip()))
    return Reference(path, embedding), findings


def _remarks(path: Path, faces: Sequence[DetectedFace]) -> list[Finding]:
    face, found = faces[0], []
    others = [other for other in faces[1:] if other.box.side >= max(MIN_FACE, _SMALL_PART * face.box.side)]
    if others:
        message = f"{path} shows {len(others) + 1} faces; the largest is taken. A photo of one person is safer."
        found.append(Finding(path.name, "several_faces", message))
    turned = yaw(face.keypoints)
    if turned > MAX_YAW:
        message = (
            f"The face in {path} is turned by about {turned:.0f} degrees; beyond {MAX_YAW:.0f} the likeness suffers."
        )
        found.append(Finding(path.name, "profile", message))
    return found


def examine_people(
    analyzer: FaceAnalyzer, people: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, tuple[Reference, ...]], list[Finding]]:
    """The usable references of each person, and everything that is to be said; people without any are left out."""
    usable: dict[str, tuple[Reference, ...]] = {}
    findings: list[Finding] = []
    for name, paths in people.items():
        references = []
        for path in paths:
            reference, said = examine(analyzer, path)
            references += [reference] if reference else []
            findings += said
        findings += _strangers(name, references)
        if references:
            usable[name] = tuple(references)
    return usable, findings


def _strangers(name: str, references: Sequence[Reference]) -> list[Finding]:
    """A person whose photos show two: the pair that is the least alike."""
    pairs = [
        (cosine(a.embedding, b.embedding), a.path.name, b.path.name)
        for a, b in combinations(references, 2)
        if a.embedding is not None and b.embedding is not None
    ]
    if not pairs or min(pairs)[0] >= THRESHOLD:
        return []
    least, one, other = min(pairs)
    message = (
        f"The photos of {name} may show two people: the cosine of {one} and {other} is {least:.2f} "
        f"({THRESHOLD:.2f} is the least of one person's)."
    )
    return [Finding(name, "two_people", message)]


def genuine(people: Mapping[str, Sequence[Reference]]) -> float | None:
    """The mean cosine of pairs of photos of one person; None without a pair."""
    pairs = [
        cosine(a.embedding, b.embedding)
        for references in people.values()
        for a, b in combinations(references, 2)
        if a.embedding is not None and b.embedding is not None
    ]
    return float(np.mean(pairs)) if pairs else None
