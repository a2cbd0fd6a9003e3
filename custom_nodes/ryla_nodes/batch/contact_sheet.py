"""A contact sheet: the pictures of a batch on one PNG, each with its number and seed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from ..client.results import write

_CELL = 256
_LABEL = 22
_GAP = 8
_LARGEST = 400
_PAPER, _INK, _EMPTY = (24, 24, 26), (214, 214, 214), (60, 60, 64)


@dataclass(frozen=True)
class Thumbnail:
    """One picture of the sheet and the line below it; a file that cannot be read leaves an empty place."""

    file: Path
    label: str


def make(thumbnails: Sequence[Thumbnail], path: Path) -> int:
    """Write the sheet as PNG, in reading order; how many pictures are on it (the first 400 at most).

    Raises:
        RylaError: as ``saving.write``.
    """
    shown = thumbnails[:_LARGEST]
    columns = max(1, math.ceil(math.sqrt(len(shown))))
    rows = math.ceil(len(shown) / columns)
    size = (columns * (_CELL + _GAP) + _GAP, rows * (_CELL + _LABEL + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for number, thumbnail in enumerate(shown):
        left = _GAP + (number % columns) * (_CELL + _GAP)
        top = _GAP + (number // columns) * (_CELL + _LABEL + _GAP)
        small = _small(thumbnail.file)
        if small is None:
            draw.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), outline=_EMPTY)
        else:
            sheet.paste(small, (left + (_CELL - small.width) // 2, top + (_CELL - small.height) // 2))
        draw.text((left, top + _CELL + 3), _fitting(thumbnail.label, font), fill=_INK, font=font)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    write(path, out.getvalue())
    return len(shown)


def _small(file: Path) -> Image.Image | None:
    try:
        with Image.open(file) as image:
            image.draft("RGB", (_CELL, _CELL))
            small: Image.Image = image.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    small.thumbnail((_CELL, _CELL))
    return small


def _fitting(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The label, cut so that it does not reach into the next picture."""
    while label and font.getlength(label) > _CELL:
        label = label[:-1]
    return label
