"""A contact sheet: the pictures of a batch on one picture, each with its number and seed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..client.results import SUFFIXES, Format, write
from ..errors import RylaError
from ..pictures import rgb
from ..sheet import Sheet, Style

_LARGEST = 400
_QUALITY = 90
_WRONG = (224, 74, 74)


@dataclass(frozen=True)
class Thumbnail:
    """One picture of the sheet and the caption below it, red when it is ``wrong``.

    A file that cannot be read leaves an empty place.
    """

    file: Path
    label: str
    wrong: bool = False


def make(
    thumbnails: Sequence[Thumbnail], path: Path, *, columns: int | None = None, lines: int = 1, style: Style = Style()
) -> int:
    """Write the sheet in the format of its suffix (PNG without one), in reading order.

    Args:
        columns: how many pictures a row has; about as many as there are rows when None.
        lines: how many lines a caption may have.

    Returns:
        How many pictures are on it: the first 400 at most.

    Raises:
        RylaError: as ``results.write``.
    """
    shown = thumbnails[:_LARGEST]
    across = columns or max(1, math.ceil(math.sqrt(len(shown))))
    sheet = Sheet(across, math.ceil(len(shown) / across), style, lines=lines)
    for number, thumbnail in enumerate(shown):
        caption = "\n".join(sheet.wrapped(thumbnail.label).split("\n")[:lines]) if lines > 1 else thumbnail.label
        ink = _WRONG if thumbnail.wrong else None
        sheet.add(number % across, number // across, _small(thumbnail.file, style.tile), caption, ink=ink)
    out = io.BytesIO()
    sheet.image.save(out, SUFFIXES.get(path.suffix.lower(), Format.PNG).name, quality=_QUALITY)
    write(path, out.getvalue())
    return len(shown)


def _small(file: Path, size: int) -> Image.Image | None:
    try:
        with Image.open(file) as image:
            image.draft("RGB", (size, size))
            small = rgb(image)
    except (OSError, SyntaxError, ValueError, RylaError, UnidentifiedImageError):
        return None
    small.thumbnail((size, size))
    return small
