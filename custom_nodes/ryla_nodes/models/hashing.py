"""Digests of large files: streamed, and remembered by size, time and inode."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ..files import Advance, digest, ignore, sha256

_BLOCK = 4 << 20
_TABLE = """
CREATE TABLE IF NOT EXISTS hashes
(path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, inode INTEGER, sha256 TEXT)
"""
_KERNEL_BLOCK = 64 << 20
_NOT_IN_KERNEL = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF)


def git_blob(path: Path, advance: Advance = ignore) -> str:
    """Git's object id of a file: what the hub gives as the ETag of a file that is not in LFS."""
    return digest("sha1", b"blob %d\0" % path.stat().st_size, path, advance)


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


class HashCache:
    """Digests of files that have not changed since (size, modification time, inode); kept in one SQLite file.

    A cache that cannot be read or written costs time, never correctness.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def sha256(self, path: Path, advance: Advance = ignore, *, refresh: bool = False) -> str:
        """The SHA-256 of ``path``, remembered or computed; ``refresh`` computes it anyway."""
        known = None if refresh else self.known(path)
        if known is not None:
            advance(path.stat().st_size)
            return known
        before = _stamp(path)
        digest = sha256(path, advance)
        if _stamp(path) == before:
            self.remember(path, digest)
        return digest

    def known(self, path: Path) -> str | None:
        """The remembered digest, or None when there is none or the file has changed."""
        query = "SELECT sha256 FROM hashes WHERE path = ? AND size = ? AND mtime_ns = ? AND inode = ?"
        rows = self._run(query, str(path.resolve()), *_stamp(path))
        return str(rows[0][0]) if rows else None

    def remember(self, path: Path, digest: str) -> None:
        """Keep a digest that was computed from the bytes of ``path`` as it is now."""
        self._run("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?)", str(path.resolve()), *_stamp(path), digest)

    def _run(self, query: str, *values: object) -> list[tuple[object, ...]]:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=10)) as connection, connection:
                connection.execute(_TABLE)
                return connection.execute(query, values).fetchall()
        except (OSError, sqlite3.Error):
            return []


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
