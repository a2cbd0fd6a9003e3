"""Find faces and their embeddings with InsightFace (2.0 or newer).

What InstantID wants is the raw 512-vector of antelopev2's recogniser, not the normalised one.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RylaError
from ..models.identity_files import find_scorer
from . import runtime
from .geometry import Array, Box

_log = logging.getLogger(__name__)

MIN_FACE = 64
# A face that fills the picture is missed at 640: it is found when the picture is shown smaller to the detector.
DETECTOR_SIZES = (640, 512, 448, 384, 320, 256, 192, 128)
_DETECTION_SIDE = 2048
_ALIGNMENT_SIDE = 448
_CACHED_PICTURES = 32

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class DetectedFace:
    """A face in a picture: box and keypoints (5, 2) in its pixels, detector score, raw embedding (512,)."""

    box: Box
    keypoints: Array
    score: float
    embedding: Array


class FaceAnalyzer:
    """antelopev2's detector and recogniser on one execution provider, and on demand the scoring recogniser.

    Pictures are uint8 RGB (H, W, 3). Results are cached by the picture's bytes; ``runs`` counts real analyses.
    ``remark`` says why the CPU is used where CUDA was asked for.
    """

    def __init__(self, pack: Path, provider: str, insightface_folders: Sequence[Path] = ()) -> None:
        self.pack = pack
        self.provider = provider
        self.runs = 0
        self._folders = tuple(insightface_folders)
        opened = runtime.open_pack(pack, provider)
        self._app = opened.model
        self.remark = opened.remark
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Any] = OrderedDict()

    def faces(self, picture: Picture) -> list[DetectedFace]:
        """Every face of ``picture``, largest first; empty when there is none."""
        key = _digest(picture)
        with self._lock:
            if key not in self._cache:
                self.runs += 1
                self._remember(key, self._analyze(picture))
            return list(self._cache[key])

    def scoring_embedding(self, picture: Picture, face: DetectedFace) -> Array:
        """Embedding (512,) of ``face`` by a recogniser that InstantID never saw."""
        model = runtime.open_recogniser(find_scorer(self._folders), self.provider).model
        key = f"{_digest(picture)} {face.box}"
        with self._lock:
            if key not in self._cache:
                self._remember(key, _embed(model, picture, face.box, face.keypoints))
            return np.asarray(self._cache[key], np.float32)

    def _remember(self, key: str, value: Any) -> None:
        self._cache[key] = value
        while len(self._cache) > _CACHED_PICTURES:
            self._cache.popitem(last=False)

    def _analyze(self, picture: Picture) -> list[DetectedFace]:
        small, scale = _shrink(picture, _DETECTION_SIDE / max(picture.shape[:2]))
        recogniser = self._app.models["recognition"]
        found = []
        for x0, y0, x1, y1, score, keypoints in self._detect(small):
            box, points = Box(x0 / scale, y0 / scale, x1 / scale, y1 / scale), keypoints / scale
            embedding = _embed(recogniser, picture, box, points)
            found.append(DetectedFace(box, np.asarray(points, np.float32), score, embedding))
        return sorted(found, key=lambda face: face.box.area, reverse=True)

    def _detect(self, picture: Picture) -> list[tuple[float, float, float, float, float, Array]]:
        bgr = np.ascontiguousarray(picture[..., ::-1])
        for size in DETECTOR_SIZES:
            # Assigning `det_model.input_size` does nothing since InsightFace 1.0: the argument is what works.
            boxes, keypoints = self._app.det_model.detect(bgr, input_size=(size, size))
            if len(boxes):
                if size != DETECTOR_SIZES[0]:
                    _log.info("A face was found only at a detector size of %d.", size)
                return [(*map(float, box), points) for box, points in zip(boxes, keypoints, strict=True)]
        return []


def select_face(
    faces: Sequence[DetectedFace], *, order: str, index: int, where: str, minimum: float = MIN_FACE
) -> DetectedFace:
    """The face number ``index`` in ``order`` ("size", the largest first, or "left-to-right").

    ``where`` names the picture in messages. Raises ``no_face``, ``face_index`` and, when the box's longer side is below
    ``minimum`` pixels, ``face_too_small``.
    """
    if not faces:
        raise RylaError("no_face", f"No face was found in {where}.")
    if index >= len(faces):
        raise RylaError("face_index", f"Face {index} was asked for, but {where} has {len(faces)} (counted from 0).")
    face = sorted(faces, key=lambda f: f.box.left)[index] if order == "left-to-right" else faces[index]
    if face.box.side < minimum:
        size = f"{face.box.width:.0f} x {face.box.height:.0f}"
        raise RylaError("face_too_small", f"The face in {where} is {size} px; at least {minimum:.0f} px are needed.")
    return face


def _embed(recogniser: Any, picture: Picture, box: Box, keypoints: Array) -> Array:
    """Raw embedding; the alignment samples bilinearly, so a large face is scaled down first."""
    from insightface.app.common import Face

    small, scale = _shrink(picture, _ALIGNMENT_SIDE / max(box.side, 1.0))
    face = Face(kps=np.asarray(keypoints * scale, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # InsightFace 2.1 calls a deprecated scikit-image method.
        return np.asarray(recogniser.get(np.ascontiguousarray(small[..., ::-1]), face), np.float32)


def _shrink(picture: Picture, scale: float) -> tuple[Picture, float]:
    from PIL import Image

    if scale >= 1:
        return picture, 1.0
    height, width = picture.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
    return np.asarray(small, np.uint8), scale


def _digest(picture: Picture) -> str:
    return hashlib.sha256(str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()
