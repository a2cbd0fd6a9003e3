"""What a file of an engine really is: told from its bytes, and whether they are all there. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

_PNG_END = b"IEND\xaeB`\x82"


class Format(str, Enum):
    """A picture format; the value is the usual suffix without its dot."""

    JPEG = "jpg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"


SUFFIXES = {
    ".jpg": Format.JPEG,
    ".jpeg": Format.JPEG,
    ".png": Format.PNG,
    ".webp": Format.WEBP,
}


@dataclass(frozen=True)
class Picture:
    """One picture of a declared output, as the engine's node wrote it.

    Attributes:
        node_id: the output node.
        filename, subfolder, folder: where the engine keeps it; ``folder`` is ``output``, ``temp`` or ``input``.
    """

    data: bytes = field(repr=False)
    format: Format
    node_id: str
    filename: str
    subfolder: str
    folder: str


def identify(data: bytes) -> Format | None:
    """The format by the magic bytes at the start; None when it is none of ours."""
    if data.startswith(b"\xff\xd8\xff"):
        return Format.JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Format.PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Format.WEBP
    return Format.GIF if data.startswith((b"GIF87a", b"GIF89a")) else None


def complete(data: bytes, kind: Format) -> bool:
    """Whether the file's end is there: a half-written file has the right start and no end."""
    if kind is Format.PNG:
        return _PNG_END in data[-64:]
    if kind is Format.JPEG:
        return b"\xff\xd9" in data[-64:]
    if kind is Format.WEBP:
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    return data.rstrip(b"\0").endswith(b";")
