"""Who is in a picture, as the package's own scoring says: InsightFace finds faces, the second recogniser reads them.

The cosine above which two faces are one person is set before anything is painted, on drawn people who are not judged.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ryla_nodes.identity.faces import FaceAnalyzer
from ryla_nodes.identity.geometry import Array, Box
from ryla_nodes.identity.similarity import cosine
from ryla_nodes.models.identity_files import find_pack

from ..evaluation import read
from ..face_stages import verification
from .cast import Picture, drawn

FALSE_ACCEPTS = 0.01
FIRST_STRANGER = 9000
"""People with this number and higher set the threshold; those who are judged have lower ones."""
_VIEWS = 4


@dataclass(frozen=True)
class Face:
    """A face that was found, and its scoring embedding (512,)."""

    box: Box
    keypoints: Array
    vector: Array


@dataclass(frozen=True)
class Threshold:
    """The ``cosine`` that one person's faces exceed. ``own``: the share of a drawn person's pairs that does.

    It was set by ``pairs`` pairs of strangers. Without any (the detector finds nobody) it is 1, which nobody exceeds.
    """

    cosine: float
    own: float
    pairs: int


class Eyes:
    """Finds and compares faces, in any thread."""

    def __init__(self, insightface: Path) -> None:
        self._roots = (insightface,)
        self._own = threading.local()
        self._photos: dict[Path, Face | None] = {}

    def faces(self, picture: Picture) -> list[Face]:
        """All faces of a picture, the largest first."""
        if not hasattr(self._own, "analyzer"):
            # Sessions are shared; the lock around a picture's analysis is not.
            self._own.analyzer = FaceAnalyzer(find_pack(self._roots), "CPU", self._roots)
        analyzer: FaceAnalyzer = self._own.analyzer
        return [
            Face(face.box, face.keypoints, analyzer.scoring_embedding(picture, face))
            for face in analyzer.faces(np.ascontiguousarray(picture))
        ]

    def face(self, file: Path) -> Face | None:
        """The largest face of a reference photo, kept."""
        if file not in self._photos:
            self._photos[file] = next(iter(self.faces(read(file))), None)
        return self._photos[file]

    def threshold(self, strangers: int, threads: int) -> Threshold:
        """From ``strangers`` drawn people in ``_VIEWS`` views each."""
        numbers = range(FIRST_STRANGER, FIRST_STRANGER + strangers)
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(self._vector, product(numbers, range(1, _VIEWS + 1))))
        rows = [found[first : first + _VIEWS] for first in range(0, len(found), _VIEWS)]
        seen = [[vector for vector in row if vector is not None] for row in rows]
        whole = [torch.from_numpy(np.stack(row)) for row in seen if len(row) == _VIEWS]
        if len(whole) < 2:
            return Threshold(1.0, 0.0, 0)
        embedded = torch.nn.functional.normalize(torch.stack(whole), dim=-1)
        own, at = verification(embedded, FALSE_ACCEPTS)
        return Threshold(at, own, len(whole) * (len(whole) - 1) // 2 * _VIEWS**2)

    def _vector(self, which: tuple[int, int]) -> Array | None:
        faces = self.faces(drawn(*which))
        return faces[0].vector if faces else None


def alike(one: Face | None, other: Face | None) -> float | None:
    """Their cosine; None where there is no face."""
    return None if one is None or other is None else cosine(one.vector, other.vector)


def apart(found: Face, asked: Array) -> float:
    """How far the found keypoints (5, 2) are from those asked for, on average, in widths of the found face."""
    return float(np.linalg.norm(found.keypoints - asked, axis=1).mean() / found.box.width)


def sides(faces: Sequence[Face], width: int) -> tuple[Face | None, Face | None]:
    """The largest face whose middle is in the left half of a picture, and in the right one."""
    left = next((face for face in faces if face.box.center[0] < width / 2), None)
    return left, next((face for face in faces if face.box.center[0] >= width / 2), None)
