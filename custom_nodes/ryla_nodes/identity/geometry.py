"""Where a face is: boxes, the five keypoints and their picture, and the affine that follows a crop.

Five points (left eye, right eye, nose, left and right mouth corner; left as seen in the picture). InstantID's
ControlNet was trained on a picture of them with four limbs from the outer points to the nose. Its pixel sizes are
absolute and were trained around 1024 px: draw at the sampling size, never small and scaled up. Source: InstantID's
reference pipeline, ``draw_kps``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE = 2
LIMB_HALF_WIDTH = 4
LIMB_BRIGHTNESS = 0.6
POINT_RADIUS = 10


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


def draw_keypoints(keypoints: Array, width: int, height: int) -> NDArray[np.uint8]:
    """Draw ``keypoints`` (5, 2), in pixels of the canvas, on black: uint8 RGB (height, width, 3)."""
    canvas = np.zeros((height, width, 3), np.uint8)
    for index in (i for i in range(len(COLORS)) if i != NOSE):
        window, inside = _limb(width, height, keypoints[index], keypoints[NOSE])
        canvas[window][inside] = np.floor(np.array(COLORS[index], np.float32) * LIMB_BRIGHTNESS)
    for (x, y), color in zip(keypoints, COLORS, strict=True):
        window, dx, dy = _around(width, height, int(x), int(y), POINT_RADIUS)
        canvas[window][dx**2 + dy**2 <= POINT_RADIUS**2] = color
    return canvas


def _limb(width: int, height: int, start: Array, end: Array) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """A window of the canvas, and the pixels in it of the ellipse that spans ``start`` to ``end``."""
    (x0, y0), (x1, y1) = start, end
    half_length = max(int(math.hypot(x0 - x1, y0 - y1) / 2), 1)
    angle = math.atan2(y0 - y1, x0 - x1)
    reach = max(half_length, LIMB_HALF_WIDTH)
    window, dx, dy = _around(width, height, int((x0 + x1) / 2), int((y0 + y1) / 2), reach)
    along = dx * math.cos(angle) + dy * math.sin(angle)
    across = dy * math.cos(angle) - dx * math.sin(angle)
    inside: NDArray[np.bool_] = (along / half_length) ** 2 + (across / LIMB_HALF_WIDTH) ** 2 <= 1
    return window, inside


def _around(
    width: int, height: int, x: int, y: int, reach: int
) -> tuple[tuple[slice, slice], NDArray[np.int_], NDArray[np.int_]]:
    """The window of the canvas that reaches so far around (x, y), and each pixel's distances across and down."""
    left, top = max(x - reach, 0), max(y - reach, 0)
    right, bottom = max(min(x + reach + 1, width), left), max(min(y + reach + 1, height), top)
    rows, columns = np.ogrid[top:bottom, left:right]
    return np.s_[top:bottom, left:right], columns - x, rows - y


def place_keypoints(
    keypoints: Array, width: int, height: int, *, face_height: float, center: tuple[float, float]
) -> Array:
    """Move and scale a reference's keypoints onto a canvas, keeping their shape.

    Args:
        keypoints: (5, 2) in any picture.
        face_height: height of the face as a fraction of the canvas height; a face is 2.7 times as high as the
            distance from its eyes to its mouth (median of detector boxes).
        center: where the middle of the five points goes, as fractions of width and height.
    """
    eyes, mouth = keypoints[:2].mean(axis=0), keypoints[3:].mean(axis=0)
    span = max(float(np.hypot(*(mouth - eyes))), 1e-3)
    scale = face_height * height / 2.7 / span
    middle = (eyes + mouth) / 2
    target = np.array([center[0] * width, center[1] * height], np.float32)
    return np.asarray((keypoints - middle) * scale + target, np.float32)
