"""Reads shape, colour, position and face attributes off a picture: segments, moments, probes; nothing learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .render import Canvas, shape_distance
from .scenes import (
    BACKGROUNDS,
    CLOTH,
    COLOURS,
    FACE_BACKGROUNDS,
    FRAME,
    HAIR_COLOURS,
    HATS,
    SHAPES,
    SIZES,
    SKINS,
    Colour,
)

Picture = NDArray[np.float64]
Mask = NDArray[np.bool_]

FOREGROUND = 70.0
TEMPLATE = 48


@dataclass(frozen=True)
class ShapeReading:
    """What a picture of one shape shows; ``found`` is False when nothing stands out from the background."""

    found: bool
    shape: str = ""
    colour: str = ""
    size: str = ""
    row: str = ""
    column: str = ""
    background: str = ""


@dataclass(frozen=True)
class FaceReading:
    """What a picture of a face shows; ``hair_colour`` is None where neither hair nor beard is seen."""

    found: bool
    skin: str = ""
    hair: str = ""
    hair_colour: str | None = None
    glasses: bool = False
    beard: bool = False
    hat: str | None = None
    background: str = ""


def _nearest(colour: Picture, palette: Mapping[str, Colour]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(colour - np.array(palette[name]))))


def _distance(picture: Picture, colour: Picture | Colour) -> NDArray[np.float64]:
    return np.linalg.norm(picture - np.asarray(colour, dtype=np.float64), axis=-1)


def _border(picture: Picture) -> Picture:
    edge = max(2, picture.shape[0] // 40)
    strips = (picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:])
    return np.median(np.concatenate([strip.reshape(-1, 3) for strip in strips]), axis=0)


def largest_component(mask: Mask) -> Mask:
    """The largest 4-connected region of ``mask`` (H, W); all False when it is empty."""
    labels, _ = ndimage.label(mask)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return mask & (labels == areas.argmax())


def _box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _silhouette(mask: Mask) -> Mask:
    """The mask cut to its bounding box and brought to TEMPLATE x TEMPLATE."""
    top, bottom, left, right = _box(mask)
    steps = (np.arange(TEMPLATE) + 0.5) / TEMPLATE
    rows = (top + steps * (bottom - top)).astype(int)
    columns = (left + steps * (right - left)).astype(int)
    return mask[np.ix_(rows, columns)]


@cache
def _templates() -> dict[str, Mask]:
    canvas = Canvas(256, [(0, 0, 0)])
    return {shape: _silhouette(shape_distance(canvas, shape, 0.5, 0.5, 0.4).numpy() < 0) for shape in SHAPES}


def _overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def _third(value: float, names: tuple[str, str, str]) -> str:
    return names[0] if value < 0.38 else names[2] if value > 0.62 else names[1]


def _size(radius: float) -> str:
    return min(SIZES, key=lambda name: abs(SIZES[name] - radius))


def read_shape(picture: NDArray[np.uint8]) -> ShapeReading:
    """Read a picture (H, W, 3) of one shape, by the silhouette of what stands out from the border's colour."""
    pixels = picture.astype(np.float64)
    ground = _border(pixels)
    mask = largest_component(_distance(pixels, ground) > FOREGROUND)
    if mask.sum() < 0.004 * mask.size:
        return ShapeReading(False)
    height, width = mask.shape
    top, bottom, left, right = _box(mask)
    inner = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
    silhouette, templates = _silhouette(mask), _templates()
    return ShapeReading(
        True,
        shape=max(templates, key=lambda name: _overlap(silhouette, templates[name])),
        colour=_nearest(np.median(pixels[inner if inner.any() else mask], axis=0), COLOURS),
        size=_size(max(bottom - top, right - left) / (2 * height)),
        row=_third((top + bottom) / (2 * height), ("top", "middle", "bottom")),
        column=_third((left + right) / (2 * width), ("left", "centre", "right")),
        background=_nearest(ground, BACKGROUNDS),
    )


class _Probes:
    """Colours at places given relative to the face, which is found by the cloth below it."""

    def __init__(self, pixels: Picture, cloth: Mask) -> None:
        self.pixels, self.size = pixels, pixels.shape[0]
        _, columns = np.nonzero(cloth)
        self.x = (float(np.median(columns)) + 0.5) / self.size
        widths = cloth.sum(axis=1)
        self.y = float(np.nonzero(widths > 0.04 * self.size)[0][0]) / self.size - 0.312

    def at(self, dx: float, dy: float) -> Picture:
        """Median colour (3,) of the 3x3 pixels at (dx, dy) from the centre of the face."""
        column = int(np.clip((self.x + dx) * self.size, 1, self.size - 2))
        row = int(np.clip((self.y + dy) * self.size, 1, self.size - 2))
        return np.median(self.pixels[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3), axis=0)

    def both(self, dx: float, dy: float, palette: Mapping[str, Colour]) -> list[str]:
        return [_nearest(self.at(side * dx, dy), palette) for side in (-1, 1)]

    def dark_ring(self, skin: Picture) -> float:
        """The share of points on the glasses' circles where, across the circle, more frame than ``skin`` is seen."""
        way = np.asarray(FRAME, dtype=np.float64) - skin
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        hits = 0
        for side in (-1, 1):
            for dx, dy in zip(np.cos(angles), np.sin(angles), strict=True):
                ray = [self.at(side * 0.08 + r * dx, -0.01 + r * dy) for r in (0.048, 0.058, 0.068)]
                hits += max(float((colour - skin) @ way) for colour in ray) > float(way @ way) / 2
        return hits / (2 * len(angles))


def read_face(picture: NDArray[np.uint8]) -> FaceReading:
    """Read a square picture (H, W, 3) of a drawn face."""
    pixels = picture.astype(np.float64)
    cloth = largest_component(_distance(pixels, CLOTH) < 40)
    if cloth.sum() < 0.02 * cloth.size:
        return FaceReading(False)
    probes = _Probes(pixels, cloth)
    nose = np.median([probes.at(0.0, dy) for dy in (0.025, 0.04, 0.055)], axis=0)
    skin = _nearest(nose, SKINS)
    background = _nearest(_border(pixels), {name: BACKGROUNDS[name] for name in FACE_BACKGROUNDS})
    parts = {f"hair {name}": colour for name, colour in HAIR_COLOURS.items()}
    parts |= {"skin": SKINS[skin], "ground": BACKGROUNDS[background], "cloth": CLOTH}
    parts |= {f"hat {name}": colour for name, colour in HATS.items()}

    def hairy(dx: float, dy: float) -> list[str]:
        return [name.removeprefix("hair ") for name in probes.both(dx, dy, parts) if name.startswith("hair ")]

    temples, jaw, bumps, chin = hairy(0.15, -0.13), hairy(0.23, 0.14), hairy(0.235, -0.06), hairy(0.05, 0.19)
    hair = "bald" if not temples else "long" if len(jaw) == 2 else "curly" if len(bumps) == 2 else "short"
    seen = temples or chin
    crown = _nearest(probes.at(0.0, -0.33), parts)
    return FaceReading(
        True,
        skin=skin,
        hair=hair,
        hair_colour=seen[0] if seen else None,
        glasses=probes.dark_ring(nose) > 0.6,
        beard=len(chin) == 2,
        hat=crown.removeprefix("hat ") if crown.startswith("hat ") else None,
        background=background,
    )
