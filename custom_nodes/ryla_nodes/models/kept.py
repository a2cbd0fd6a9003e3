"""Where the 8-bit weights of a model file are kept on the volume, and whether they are still that file's.

A file in ``RYLA_VOLUME/cache`` for each model file, by the place of that. It says what it was made from: the source's
header, size and time, pieces of its matrices, and by which PyTorch. Reading 24 GB for their digest would cost what
keeping them saves.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import RylaError
from ..files import free_bytes
from .headers import Header, read_header
from .page_cache import Part

LIMIT_BYTES = 40 << 30
SPARE_BYTES = 1 << 30
"""What stays free on the volume."""

_PREFIX = "fp8-"
_WEIGHT, _SCALE = ".weight.", ".scale."
_SOURCE, _MAKER = "ryla_source", "ryla_maker"
_FORMAT = "1"
_PIECES, _PIECE = 32, 4096  # Each waits for the disk once.
_ABANDONED_S = 86400.0


@dataclass(frozen=True)
class Kept:
    """A file of 8-bit weights with its header."""

    path: Path
    header: Header

    def weights(self) -> frozenset[str]:
        """The names of the source's weights that are in it."""
        modules = (name.partition(_WEIGHT) for name in self.header.tensors)
        return frozenset(f"{module}.weight" for module, found, _ in modules if found)

    def use(self) -> None:
        """Note that it is used: what was not for longest goes first."""
        with suppress(OSError):
            os.utime(self.path)


def names(weight: str, part: int) -> tuple[str, str]:
    """What the part of a source's ``weight`` and its scales are called."""
    module = weight.removesuffix(".weight")
    return f"{module}{_WEIGHT}{part}", f"{module}{_SCALE}{part}"


def path_of(volume: Path, source: Path) -> Path:
    """Where the 8-bit weights of ``source`` are kept, or would be."""
    resolved, root = source.resolve(), volume.resolve()
    place = resolved.relative_to(root) if resolved.is_relative_to(root) else resolved
    digest = hashlib.sha256(place.as_posix().encode()).hexdigest()[:12]
    return volume / "cache" / f"{_PREFIX}{source.stem[:60]}-{digest}.safetensors"


def find(volume: Path | None, source: Path, maker: str | None = None) -> Kept | None:
    """What is kept of ``source`` as it is now, made by ``maker`` (by any, when None); None without."""
    if volume is None:
        return None
    path = path_of(volume, source)
    try:
        found = Kept(path, read_header(path))
        said = found.header.metadata
        if maker is not None and said.get(_MAKER) != maker:
            return None
        return found if said.get(_SOURCE) == digest(read_header(source), found.weights()) else None
    except (RylaError, OSError):
        return None


def parts(found: Kept, source: Header) -> tuple[list[Part], list[Part]]:
    """The bytes of a model file that are read beside what is kept of it, and those that it stands for."""
    size = source.path.stat().st_size
    starts = sorted((start, name) for name, start in source.starts.items())
    weights = found.weights()
    beside, instead = [Part(source.path, 0, starts[0][0])], list[Part]()
    for (start, name), end in zip(starts, [*(start for start, _ in starts[1:]), size], strict=True):
        (instead if name in weights else beside).append(Part(source.path, start, end))
    return beside, instead


def metadata(source: Header, weights: Iterable[str], maker: str) -> dict[str, str]:
    """What a file of the 8-bit ``weights`` says about itself."""
    return {_SOURCE: digest(source, weights), _MAKER: maker}


def digest(source: Header, weights: Iterable[str]) -> str:
    """Of a model file: its header, size and time, and a piece from the middle of some of ``weights``.

    Raises:
        OSError: it cannot be read.
    """
    status = source.path.stat()
    state = hashlib.sha256(f"{_FORMAT} {status.st_size} {status.st_mtime_ns}".encode())
    for name in sorted(source.tensors):
        state.update(f"{name} {source.tensors[name]} {source.starts[name]}".encode())
    starts = sorted(source.starts.values())
    ends = dict(zip(starts, [*starts[1:], status.st_size], strict=True))
    with source.path.open("rb", buffering=0) as file:
        ordered = sorted(weights)
        for name in ordered[:: max(1, len(ordered) // _PIECES)]:
            start = source.starts.get(name, 0)
            middle = (start + ends.get(start, start)) // 2
            file.seek(middle)
            state.update(file.read(min(_PIECE, ends.get(start, middle) - middle)))
    return state.hexdigest()


def hindrance(target: Path, size: int) -> str | None:
    """Why ``size`` more bytes cannot be kept at ``target``, after what was not used for longest has made room."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _bound(target, LIMIT_BYTES - size)
    except OSError as error:
        return str(error)
    free = free_bytes(target.parent)
    if size > LIMIT_BYTES:
        return f"they take {size / 1e9:.1f} GB, and {LIMIT_BYTES / 1e9:.1f} GB are kept at most"
    if free is not None and free < size + SPARE_BYTES:
        return f"{target.parent} has {free / 1e9:.1f} GB left, and they take {size / 1e9:.1f} GB"
    return None


def _bound(target: Path, limit: int) -> None:
    """Remove what is kept beside ``target``, the longest unused first, until the rest is within ``limit`` bytes."""
    for part in target.parent.glob(f".{_PREFIX}*.part"):
        if time.time() - part.stat().st_mtime > _ABANDONED_S:
            part.unlink(missing_ok=True)
    others = [path for path in target.parent.glob(f"{_PREFIX}*.safetensors") if path != target]
    status = {path: path.stat() for path in others}
    total = sum(each.st_size for each in status.values())
    for path in sorted(others, key=lambda path: status[path].st_mtime):
        if total > limit:
            path.unlink(missing_ok=True)
            total -= status[path].st_size
