"""Read a photo from disk as people send them: rotated by EXIF, grey, transparent, CMYK, animated, broken or huge."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .. import pictures
from ..errors import RylaError

MAX_SIDE = 4096
MAX_PIXELS = 200_000_000

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def read_photo(path: Path, max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """The upright first frame of ``path`` as uint8 RGB (H, W, 3), scaled down to at most ``max_side``.

    Transparent pixels are laid on white. Raises ``unreadable_image`` (not a picture, damaged, not there) and
    ``image_too_large`` (more than 200 megapixels).
    """
    if not path.is_file():
        raise RylaError("unreadable_image", f"There is no photo at {path}.")
    Image.init()  # Else `formats` knows the commonest ones only.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                return _decode(image, path, max_side)
    except UnidentifiedImageError:
        raise RylaError("unreadable_image", f"{path} is not a picture ({', '.join(_FORMATS)}).") from None
    except Image.DecompressionBombError:
        raise RylaError("image_too_large", f"{path} claims more than {MAX_PIXELS // 10**6} megapixels.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RylaError("unreadable_image", f"{path} is damaged or incomplete: {error}.") from error


def _decode(image: Image.Image, path: Path, max_side: int) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RylaError("image_too_large", f"{path} has {width} x {height} pixels; the limit is 200 megapixels.")
    image.draft("RGB", (max_side, max_side))
    upright = pictures.rgb(image)
    upright.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return np.asarray(upright, np.uint8)
