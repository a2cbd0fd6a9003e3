"""Drawn people of one's own making, and the small face models, for the tests of every folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from ryla_nodes.identity.faces import FaceAnalyzer
from ryla_nodes.models import shipped
from ryla_nodes.models.identity_files import find_pack

from training.people import People, Views, keypoints, people
from training.portraits import portraits

FIRST = 8000
"""The number of the person of seed 0: held out, and none of those whom the trainings are judged by."""
_GROUND, _HORIZON = (0.55, 0.70, 0.85), (0.66, 0.80, 0.92)


def analyzer() -> FaceAnalyzer:
    """A fresh analyzer over the small models (its sessions are shared, its cache and counter are not)."""
    folder = shipped.insightface()
    return FaceAnalyzer(find_pack([folder]), "CPU", [folder])


def insightface_folder() -> Path:
    """An ``insightface`` folder with the small models; to be read only."""
    return shipped.insightface()


def photo(
    seed: int = 3, size: int = 512, *, face: float = 0.5, center: tuple[float, float] = (0.5, 0.5)
) -> NDArray[np.uint8]:
    """A person from the front as uint8 RGB; ``face`` is the head's height without hair as a part of the picture's."""
    who, view = _drawn(seed, face, center)
    picture = portraits(who, view, size)[0].permute(1, 2, 0)
    return np.ascontiguousarray((picture * 255).round().to(torch.uint8).numpy())


def portrait(
    seed: int, width: int = 512, height: int = 0, *, face: float = 0.5, center: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """``photo`` as a picture of any proportions; what is beside the square in its middle is cut off."""
    height = height or width
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return Image.fromarray(photo(seed, side, face=face, center=center)).crop((left, top, left + width, top + height))


def true_keypoints(
    size: int, face: float, center: tuple[float, float] = (0.5, 0.5), seed: int = 3
) -> NDArray[np.float32]:
    """Where ``photo`` drew the five points (5, 2), in pixels."""
    return np.asarray(keypoints(*_drawn(seed, face, center))[0].numpy() * size, np.float32)


def _drawn(seed: int, face: float, center: tuple[float, float]) -> tuple[People, Views]:
    def each(value: float) -> torch.Tensor:
        return torch.tensor([value])

    zero = each(0.0)
    view = Views(
        yaw=zero, pitch=zero, roll=zero, scale=each(face / 2), x=each(center[0]), y=each(center[1]),
        smile=each(0.3), open=zero, eyes=each(0.9), brows=zero, light=each(0.1), light_from=zero,
        background=torch.tensor([_GROUND]), ground=torch.tensor([_HORIZON]),
        hat=torch.full((1, 3), torch.nan), glasses=torch.zeros(1, dtype=torch.bool),
    )  # fmt: skip
    return people(torch.tensor([FIRST + seed])), view
