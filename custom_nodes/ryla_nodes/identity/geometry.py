"""Where a face is, in numbers: boxes, the five keypoints and the affine that follows a crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """A bounding box in pixels; ``right`` and ``bottom`` are exclusive. It may reach beyond the picture."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def side(self) -> float:
        """The longer side."""
        return max(self.width, self.height)

    @property
    def center(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


@dataclass(frozen=True)
class Affine:
    """Axis-aligned map from picture to crop, in pixel coordinates with pixel centres at integers.

    A resize keeps edges, not centres, so ``u = (x + 0.5 - left) * scale - 0.5``.
    """

    left: float
    top: float
    scale: float

    def points(self, points: Array) -> Array:
        """Map points (N, 2)."""
        origin = np.array([self.left, self.top], np.float32)
        return np.asarray((points + 0.5 - origin) * self.scale - 0.5, np.float32)

    def box(self, box: Box) -> Box:
        """Map a box; its edges are edges, not centres."""
        return Box(
            (box.left - self.left) * self.scale,
            (box.top - self.top) * self.scale,
            (box.right - self.left) * self.scale,
            (box.bottom - self.top) * self.scale,
        )
