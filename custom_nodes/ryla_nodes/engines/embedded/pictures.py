"""Opening pictures that others made: only the formats that we mean, and never more pixels than memory is meant for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ...errors import RylaError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What Pillow may open. It knows fifty more; some start other programs, as EPS does Ghostscript."""

MAX_PIXELS = 64_000_000
"""Of all pictures of a batch, or frames of a file, together: about 0.8 GB as float32 RGB."""

MAX_FRAMES = 4096
"""Of one file."""


@contextmanager
def opened(source: Path | IO[bytes], name: str) -> Iterator[Image.Image]:
    """The picture in ``source``, not decoded yet, of at most ``MAX_PIXELS``. What its decoder raises is told, too.

    Args:
        name: what messages call it.

    Raises:
        RylaError: ``unreadable_image`` for what is no picture of ``FORMATS``, or damaged; ``image_too_large``.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=FORMATS) as picture:
                require_size(picture.width, picture.height, name=name)
                yield picture
    except (RylaError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise RylaError("unreadable_image", f"{name} is not a picture ({', '.join(FORMATS)}).") from None
    except Image.DecompressionBombError:
        raise too_large(name, "has too many pixels") from None
    except FileNotFoundError:
        raise RylaError("unreadable_image", f"There is no picture {name}.") from None
    except Exception as error:
        raise RylaError("unreadable_image", f"{name} is damaged or incomplete: {error}.") from error


def require_size(width: int, height: int, count: int = 1, *, name: str) -> None:
    """Check that ``count`` pictures of this size fit into ``MAX_PIXELS``.

    Raises:
        RylaError: ``image_too_large``.
    """
    if width * height * count > MAX_PIXELS:
        raise too_large(name, f"has {f'{count} times ' if count > 1 else ''}{width} x {height} pixels")


def too_large(name: str, what: str) -> RylaError:
    """The error that says so, with the limit."""
    return RylaError("image_too_large", f"{name} {what}; the limit is {MAX_PIXELS // 10**6} megapixels in all.")
