"""Pictures of what was found: boxes, keypoints and the crop on a photo; two faces side by side with their score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .crop import FaceCrop
from .geometry import COLORS, Box

if TYPE_CHECKING:
    from .faces import DetectedFace, Picture

LONGEST_SIDE = 640
TILE = 384
_CHOSEN, _OTHER, _SQUARE = (80, 220, 100), (170, 170, 170), (255, 205, 60)
_PASSED, _FAILED = (30, 110, 50), (150, 40, 40)
_MARGIN = 0.35  # Of the face's longer side, around it.


def overlay(
    picture: Picture, faces: Sequence[DetectedFace], chosen: DetectedFace | None, crop: FaceCrop | None
) -> Picture:
    """The picture, at most ``LONGEST_SIDE`` long, with every face's box, the chosen one's keypoints and its square."""
    image, scale = _shrunk(Image.fromarray(picture), LONGEST_SIDE)
    canvas = ImageDraw.Draw(image)
    width = max(2, round(max(image.size) / 250))
    for face in faces:
        _outline(canvas, face.box, scale, _CHOSEN if face is chosen else _OTHER, width)
    if chosen is None:
        return _captioned(image, "no face: the picture stays as it is" if not faces else "no face that is large enough")
    if crop is not None:
        square = Box(crop.left, crop.top, crop.left + crop.side, crop.top + crop.side)
        _outline(canvas, _inside(square, picture), scale, _SQUARE, width)
    for (x, y), color in zip(chosen.keypoints * scale, COLORS, strict=True):
        canvas.ellipse(_around(float(x), float(y), 2 * width), color, outline=(0, 0, 0))
    return np.asarray(image, np.uint8)


def side_by_side(
    reference: Picture, known: Box, picture: Picture, found: Box | None, score: float | None, passed: bool
) -> Picture:
    """Both faces at the same size, the reference's on the left, and the score below them on green or red."""
    image = Image.new("RGB", (2 * TILE, TILE))
    image.paste(_face(reference, known), (0, 0))
    image.paste(_face(picture, found), (TILE, 0))
    verdict = "the same person" if passed else "not the same person"
    line = "no face was found in the picture" if score is None else f"{score:.3f}: {verdict}"
    return _captioned(image, line, _PASSED if passed else _FAILED)


def _face(picture: Picture, box: Box | None) -> Image.Image:
    """The part of a picture around a face as a square; all of the picture without one."""
    image = Image.fromarray(picture)
    if box is None:
        image.thumbnail((TILE, TILE))
        tile = Image.new("RGB", (TILE, TILE))
        tile.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
        return tile
    (x, y), half = box.center, box.side * (0.5 + _MARGIN)
    area = tuple(round(edge) for edge in (x - half, y - half, x + half, y + half))
    return image.crop((area[0], area[1], area[2], area[3])).resize((TILE, TILE), Image.Resampling.LANCZOS)


def _shrunk(image: Image.Image, longest: int) -> tuple[Image.Image, float]:
    scale = min(1.0, longest / max(image.size))
    if scale == 1.0:
        return image.copy(), scale
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))), scale


def _inside(box: Box, picture: Picture) -> Box:
    """The part of a box that is in the picture: a square may be larger than a small picture."""
    height, width = picture.shape[:2]
    return Box(max(0, box.left), max(0, box.top), min(width, box.right), min(height, box.bottom))


def _outline(canvas: ImageDraw.ImageDraw, box: Box, scale: float, color: tuple[int, int, int], width: int) -> None:
    edges = [edge * scale for edge in (box.left, box.top, box.right - 1, box.bottom - 1)]
    left, top, right, bottom = edges[0], edges[1], max(edges[0], edges[2]), max(edges[1], edges[3])
    canvas.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0), width=width + 2)
    canvas.rectangle((left, top, right, bottom), outline=color, width=width)


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _captioned(image: Image.Image, line: str, ground: tuple[int, int, int] = (40, 40, 40)) -> Picture:
    """The picture with a line of text below it, as large as fits."""
    size = max(10, min(36, image.width // 20))
    font = ImageFont.load_default(size)
    tall = Image.new("RGB", (image.width, image.height + 2 * size), ground)
    tall.paste(image, (0, 0))
    canvas = ImageDraw.Draw(tall)
    canvas.text((image.width / 2, image.height + size), line, (255, 255, 255), font, anchor="mm")
    return np.asarray(tall, np.uint8)
