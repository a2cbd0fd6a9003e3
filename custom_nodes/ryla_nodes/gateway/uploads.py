"""Pictures that requests bring: checked, kept under the name of their content while a job needs them, then deleted."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

from ..client.api import DIGITS, UPLOADS
from ..errors import RylaError
from ..files import write_whole
from .options import Limits

_DATA_URL = re.compile(r"data:([\w.+/-]*)((?:;[\w-]+=[\w.-]+)*);base64,", re.ASCII)
_FORMATS = ("JPEG", "PNG", "WEBP")
_ORPHAN_SECONDS = 3600.0


class Uploads:
    """The folder of uploads. A name is held by every job that uses it; the last to let go deletes the file.

    Args:
        inputs: the input folders of the gateway's own engines, where a copy is deleted, too.
    """

    def __init__(self, folder: Path, limits: Limits, inputs: Sequence[Path] = ()) -> None:
        self._folder, self._limits = folder, limits
        self._copies = [each / UPLOADS for each in inputs]
        self._held: Counter[str] = Counter()

    def path(self, name: str) -> Path:
        """Where an upload lies."""
        return self._folder / name

    async def store(self, parameter: str, data: bytes) -> str:
        """Check a picture and keep it; its name, held once.

        Raises:
            RylaError: ``unreadable_image``, ``image_too_large``, ``disk_full``, ``not_writable``.
        """
        if len(data) > self._limits.image_bytes:
            most = self._limits.image_bytes / 2**20
            raise RylaError("image_too_large", f"{parameter} has {len(data) / 2**20:.1f} MiB; {most:.0f} are allowed.")
        name = hashlib.sha256(data).hexdigest()[:40]
        self._held[name] += 1
        try:
            return await asyncio.to_thread(self._store, parameter, data, name)
        except BaseException:
            self.release([name])
            raise

    def _store(self, parameter: str, data: bytes, name: str) -> str:
        check(parameter, data, self._limits.image_pixels)
        path = self.path(name)
        if not path.exists():
            self.put(name, data)
        return name

    def put(self, name: str, data: bytes) -> None:
        """Keep a picture that another gateway has checked.

        Raises:
            RylaError: ``disk_full``.
        """
        try:
            write_whole(self.path(name), data)
        except OSError as error:
            raise RylaError("disk_full", f"A photo could not be stored: {error.strerror}.") from error

    def hold(self, names: Iterable[str]) -> None:
        """A job of an earlier process needs these."""
        self._held.update(names)

    def release(self, names: Iterable[str]) -> None:
        """A job needs these no longer."""
        for name in names:
            self._held[name] -= 1
            if self._held[name] <= 0:
                del self._held[name]
                for path in (self.path(name), *(folder / name[:DIGITS] for folder in self._copies)):
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what an earlier process left and no job has taken up since."""
        oldest = time.time() - _ORPHAN_SECONDS
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if path.name not in self._held and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)


def from_text(parameter: str, text: str) -> bytes:
    """The bytes of a data URL or of bare base64.

    Raises:
        RylaError: ``unreadable_image``.
    """
    match = _DATA_URL.match(text[:200])
    if match is None and text[:5].lower() == "data:":
        raise RylaError("unreadable_image", f"{parameter} is a data URL that is not base64.")
    encoded = text[match.end() :] if match else text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RylaError("unreadable_image", f"{parameter} is neither base64 nor a data URL with base64.") from None
    if not data:
        raise RylaError("unreadable_image", f"{parameter} is empty.")
    return data


def check(parameter: str, data: bytes, most_pixels: int) -> None:
    """Refuse what is no JPEG, PNG or WebP, has too many pixels (told from its header), or is damaged.

    Raises:
        RylaError: ``unreadable_image``, ``image_too_large``.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=_FORMATS) as image:
                width, height = image.size
                if width * height > most_pixels:
                    raise RylaError(
                        "image_too_large",
                        f"{parameter} has {width} x {height} pixels; {most_pixels / 1e6:.0f} million are allowed.",
                    )
                image.draft("RGB", (1, 1))  # A JPEG is read to its end, but drawn small.
                image.load()
    except Image.DecompressionBombError:
        raise RylaError("image_too_large", f"{parameter} has far too many pixels.") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError):
        raise RylaError("unreadable_image", f"{parameter} is no JPEG, PNG or WebP, or is damaged.") from None
