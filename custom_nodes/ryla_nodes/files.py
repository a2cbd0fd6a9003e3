"""Files on the disk, whatever its file system can do: written whole or not at all, copied, read as text, digested."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".pickle")
MODEL_SUFFIXES = (*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES, ".gguf", ".onnx")
"""The suffixes of model files, in lower case."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a disk without room says."""

Advance = Callable[[int], None]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16's, which is its beginning.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 400
_LINE_END = re.compile("\r\n?")
_BLOCK = 4 << 20
_KERNEL_BLOCK = 64 << 20
_LONGEST_STEM = 100
_SETTLED_NS = 2_000_000_000  # A directory's mtime may be as coarse as 2 s: a younger one may still change unseen.
# Network and user-space file systems that cannot flush a file say one of these.
_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EROFS)
_NOT_IN_KERNEL = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF)


@contextmanager
def replacing(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Give a new file beside ``path`` to write to; at the end of the block it takes the name ``path``.

    At every moment the file is absent, old or whole, whoever else writes it. A block that raises leaves nothing.

    Args:
        exclusive: raise ``FileExistsError`` at the end when ``path`` is there by then; in one step where the file
            system has hard links.

    Raises:
        OSError: what the file system says.
    """
    part = path.with_name(f".{path.name[:_LONGEST_STEM]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        flush(part)
        if exclusive:
            _claim(part, path)
        else:
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _claim(part: Path, path: Path) -> None:
    try:
        path.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError as error:  # A file system without hard links.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        part.replace(path)


def write_whole(path: Path, content: bytes, *, exclusive: bool = False) -> None:
    """Write a file in one piece: see ``replacing``."""
    with replacing(path, exclusive=exclusive) as part:
        part.write_bytes(content)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, and have the disk hold it."""
    with path.open("ab") as file:
        file.write(content)
    flush(path)


def flush(path: Path) -> None:
    """Have the disk hold what was written to ``path``, where the file system knows how to."""
    with path.open("rb+", buffering=0) as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise


def free_bytes(path: Path) -> int | None:
    """Free bytes of the disk of ``path`` (or of its first parent that is there); None where the disk does not tell.

    A disk that has 0 bytes in all does not tell: some mounts of cloud storage answer so.
    """
    try:
        usage = shutil.disk_usage(existing(path))
    except OSError:
        return None
    return usage.free if usage.total > 0 else None


def existing(path: Path) -> Path:
    """``path``, or its first parent that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def is_settled(mtime_ns: int) -> bool:
    """Whether a later change of a directory is sure to show in its mtime."""
    return time.time_ns() - mtime_ns > _SETTLED_NS


def is_companion(name: str) -> bool:
    """Whether a file is one of those (``._NAME``) that macOS makes beside others on foreign disks."""
    return name.startswith("._")


def of_suffix(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder with one of these (lower-case) suffixes, in capitals too, sorted."""
    found = (path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in suffixes)
    return sorted(path for path in found if not is_companion(path.name))


def ignore(_: int) -> None:
    """Progress that nobody looks at."""


def decoded(data: bytes) -> str:
    """A text file's content without its byte order mark: UTF-8, or UTF-16 and UTF-32 as Windows writes them.

    Raises:
        UnicodeDecodeError: it is none of these.
    """
    return data.decode(_encoding(data))


def read_text(path: Path) -> str:
    """The text of a file, its lines ended by ``\\n`` alone: see ``decoded``.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    return _LINE_END.sub("\n", decoded(path.read_bytes()))


def _encoding(data: bytes) -> str:
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    # Half of the bytes of Latin text in UTF-16 are 0; no text in UTF-8 has any.
    head = data[:_LOOKED_AT]
    zeros = [head[start::2].count(0) for start in (0, 1)]
    if max(zeros) * 4 > len(head) and min(zeros) == 0:
        return "utf-16-le" if zeros[1] else "utf-16-be"
    return "utf-8"


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


def file_state(path: Path) -> tuple[str, int, int]:
    """What changes when a file is replaced: path, mtime in nanoseconds, size in bytes."""
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


def fingerprint(state: object) -> str:
    """A digest of ``state``: ComfyUI stores fingerprints in the pictures, where local paths have no place."""
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def copy(source: Path, target: Path, advance: Advance = ignore) -> None:
    """Copy a file's bytes, inside the kernel where it can (a file system that shares blocks then shares them)."""
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        moved = _copy_in_kernel(reader.fileno(), writer.fileno(), advance)
        reader.seek(moved)
        writer.seek(moved)
        view = memoryview(bytearray(_BLOCK))
        while count := reader.readinto(view):
            _write_all(writer.fileno(), view[:count])
            advance(count)


def _copy_in_kernel(reader: int, writer: int, advance: Advance) -> int:
    """Copy as much as the kernel is willing to; the number of bytes copied."""
    moved = 0
    if not hasattr(os, "copy_file_range"):
        return moved
    try:
        while count := os.copy_file_range(reader, writer, _KERNEL_BLOCK):
            moved += count
            advance(count)
    except OSError as error:
        if error.errno not in _NOT_IN_KERNEL:
            raise
    return moved


def _write_all(descriptor: int, block: memoryview) -> None:
    while block:
        block = block[os.write(descriptor, block) :]
