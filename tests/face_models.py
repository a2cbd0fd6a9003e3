"""Drawn faces and the small face models, for the tests of every folder."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ryla_nodes.identity import demo_faces
from ryla_nodes.identity.faces import FaceAnalyzer
from ryla_nodes.models.identity_files import find_pack


@functools.cache
def insightface_folder() -> Path:
    """An ``insightface`` folder with the small models, made once a process."""
    return demo_faces.ensure_models(Path(tempfile.mkdtemp(prefix="faces-")) / "insightface")


def analyzer() -> FaceAnalyzer:
    """A fresh analyzer over the small models (its sessions are shared, its cache and counter are not)."""
    folder = insightface_folder()
    return FaceAnalyzer(find_pack([folder]), "CPU", [folder])


def photo(
    seed: int = 3, size: int = 512, *, face: float = 0.5, center: tuple[float, float] = (0.5, 0.5)
) -> NDArray[np.uint8]:
    """A drawn portrait as uint8 RGB; ``face`` is the face's height as a part of the picture's."""
    return np.asarray(demo_faces.portrait(seed, size, size, face=face, center=center))


def true_keypoints(size: int, face: float, center: tuple[float, float]) -> NDArray[np.float32]:
    """Where ``photo`` drew the five points."""
    return demo_faces.KEYPOINTS * face * size + np.array(center, np.float32) * size
