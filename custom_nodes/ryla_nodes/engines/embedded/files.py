"""The files of the embedded engine: its folders, ComfyUI's rules for names in them, and pictures that others made."""

from __future__ import annotations

import os
import re
import struct
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from ...errors import RylaError
from ..protocol import SaveTarget

if TYPE_CHECKING:
    from PIL import Image

NOTHING_KNOWN: Mapping[Path, int] = MappingProxyType({})
KINDS = ("input", "output", "temp")
LONGEST_NAME = 255
LONGEST_PATH = 1000

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What Pillow may open. It knows fifty more; some start other programs, as EPS does Ghostscript."""

# What Pillow's readers raise of files that are cut, or that say what cannot be.
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)

MAX_PIXELS = 64_000_000
"""Of the frames of a file together: about 0.8 GB as float32 RGB."""
MAX_MADE_PIXELS = 256_000_000
"""Of all pictures together that a node makes: about 3 GB as float32 RGB."""

MAX_FRAMES = 4096
"""Of one file."""


@dataclass(frozen=True)
class EngineFiles:
    """The folders of files under ``home``; they are made when they are first asked for."""

    home: Path

    def folder(self, kind: str) -> Path:
        """The folder of ``kind`` (one of ``KINDS``). Raises ``unsafe_path``, ``unwritable_home``."""
        if kind not in KINDS:
            raise RylaError(
                "unsafe_path", f"There is no folder of files called {kind!r}; there are {', '.join(KINDS)}."
            )
        path = (self.home / kind).resolve()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"The folder {path} cannot be made: {error.strerror or error}."
            raise RylaError("unwritable_home", message, path=path) from error
        return path

    @property
    def input(self) -> Path:
        return self.folder("input")

    @property
    def output(self) -> Path:
        return self.folder("output")

    @property
    def temp(self) -> Path:
        return self.folder("temp")

    def resolve(self, name: str, kind: str = "input", subfolder: str = "") -> Path:
        """The path of a file by the name that clients use; it need not exist.

        Args:
            name: a file name, with folders in front or not; a trailing ``[input]``, ``[output]`` or ``[temp]``
                (as in ``x.png [output]``) overrides ``kind``.
            kind: the folder to look in, one of ``KINDS``.
            subfolder: a folder below it.

        Raises:
            RylaError: ``unsafe_path`` when the path is outside of the folder.
        """
        annotated = re.fullmatch(r"(.*?)\s*\[(input|output|temp)\]", name, re.DOTALL)
        if annotated:
            name, kind = annotated.groups()
        return self.inside(kind, subfolder, name)

    def inside(self, kind: str, *parts: str) -> Path:
        """``parts`` joined below the folder of ``kind``, links followed; refused when that leads outside of it."""
        root = self.folder(kind)
        told = "/".join(filter(None, parts))
        if not all(map(_can_be_name, re.split(r"[/\\]", told))) or len(told) > LONGEST_PATH:
            raise RylaError("unsafe_path", f"{told[:LONGEST_NAME]!r} is not a file name.")
        try:
            path = root.joinpath(*parts).resolve()
        except (OSError, RuntimeError) as error:  # a circle of links is a RuntimeError up to Python 3.12
            raise RylaError("unsafe_path", f"{told!r} leads nowhere in the {kind} folder.") from error
        if not path.is_relative_to(root):
            raise RylaError("unsafe_path", f"{told!r} is outside of the {kind} folder.")
        return path

    def save_target(
        self, prefix: str, width: int, height: int, kind: str = "output", known: Mapping[Path, int] = NOTHING_KNOWN
    ) -> SaveTarget:
        """Where the next file of ``prefix`` goes; its folder is made.

        Args:
            prefix: name with folders in front or not; ``%width% %height% %year% %month% %day% %hour% %minute%
                %second%`` are filled in.
            width, height: of the picture, in pixels.
            kind: the folder to save in, one of ``KINDS``.
            known: the next counters of folder and name, where the caller knows them: looking takes long in a full
                folder.

        Raises:
            RylaError: ``unsafe_path`` when the prefix leads outside of the folder.
        """
        path = PurePosixPath(_expanded(prefix.replace("\\", "/"), width, height))
        subfolder = "" if str(path.parent) == "." else str(path.parent)
        folder = self.inside(kind, subfolder)
        folder.mkdir(parents=True, exist_ok=True)
        counter = known.get(folder / path.name) or _next_counter(folder, path.name)
        return SaveTarget(folder, path.name, counter, subfolder)


def _can_be_name(part: str) -> bool:
    """Whether every file system that we meet can have a file of this name."""
    try:
        return len(part.encode()) <= LONGEST_NAME and not any(ord(letter) < 32 for letter in part)
    except UnicodeEncodeError:
        return False


def _expanded(prefix: str, width: int, height: int) -> str:
    now = time.localtime()
    tokens = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    return re.sub(r"%(\w+)%", lambda match: tokens.get(match[1], match[0]), prefix)


def _next_counter(folder: Path, name: str) -> int:
    """One more than the highest N of the files ``<name>_N...`` in ``folder``; case is ignored, as some disks do."""
    numbered = re.compile(re.escape(name) + r"_(\d{1,18})(?:[_.].*)?", re.IGNORECASE)
    found = (numbered.fullmatch(entry.name) for entry in os.scandir(folder))
    return max((int(match[1]) for match in found if match), default=0) + 1


@contextmanager
def opened_picture(source: Path | IO[bytes], name: str) -> Iterator[Image.Image]:
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
                _require_pixels(picture.width, picture.height, 1, MAX_PIXELS, name)
                yield picture
    except UnidentifiedImageError:
        raise RylaError("unreadable_image", f"{name} is not a picture ({', '.join(FORMATS)}).") from None
    except Image.DecompressionBombError:
        raise too_large(name, "has too many pixels") from None
    except FileNotFoundError:
        raise RylaError("unreadable_image", f"There is no picture {name}.") from None
    except _DAMAGE as error:
        raise RylaError("unreadable_image", f"{name} is damaged or incomplete: {error}.") from error


def require_size(width: int, height: int, count: int = 1, *, name: str) -> None:
    """Check that ``count`` pictures of this size, which a node makes, fit into ``MAX_MADE_PIXELS``.

    Raises:
        RylaError: ``image_too_large``.
    """
    _require_pixels(width, height, count, MAX_MADE_PIXELS, name)


def _require_pixels(width: int, height: int, count: int, limit: int, name: str) -> None:
    if width * height * count > limit:
        raise too_large(name, f"has {f'{count} times ' if count > 1 else ''}{width} x {height} pixels", limit)


def too_large(name: str, what: str, limit: int = MAX_PIXELS) -> RylaError:
    """The error that says so, with the limit."""
    return RylaError("image_too_large", f"{name} {what}; the limit is {limit // 10**6} megapixels in all.")
