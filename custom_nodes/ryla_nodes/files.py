"""Files on the disk: written whole or not at all, known by their digest, told to be models by their suffix."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MODEL_SUFFIXES = (
    ".safetensors",
    ".sft",
    ".ckpt",
    ".pt",
    ".pt2",
    ".pth",
    ".bin",
    ".pkl",
    ".gguf",
    ".onnx",
)
"""The suffixes of model files, in lower case."""

Advance = Callable[[int], None]

_BLOCK = 4 << 20
_LONGEST_STEM = 100
# Network and user-space file systems that cannot flush a file say one of these.
_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file beside ``path`` to write to; at the end of the block it takes the name ``path``.

    At every moment the file is absent, old or whole, whoever else writes it. A block that raises leaves nothing.

    Raises:
        OSError: what the file system says.
    """
    part = path.with_name(f".{path.name[:_LONGEST_STEM]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        flush(part)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one piece: see ``replacing``."""
    with replacing(path) as part:
        part.write_bytes(content)


def flush(path: Path) -> None:
    """Have the disk hold what was written to ``path``, where the file system knows how to."""
    with path.open("rb+", buffering=0) as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise


def ignore(_: int) -> None:
    """Progress that nobody looks at."""


def sha256(path: Path, advance: Advance = ignore) -> str:
    """The SHA-256 of a file in lower-case hex; ``advance`` gets the number of bytes of each block read."""
    return digest("sha256", b"", path, advance)


def digest(algorithm: str, prefix: bytes, path: Path, advance: Advance = ignore) -> str:
    """The digest of ``prefix`` and a file's bytes, streamed, in lower-case hex."""
    state = hashlib.new(algorithm, prefix, usedforsecurity=False)
    view = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            state.update(view[:count])
            advance(count)
    return state.hexdigest()
