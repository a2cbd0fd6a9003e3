"""Prove that an installed file is the right one: size, hash (remembered until the file changes), header, kind."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import RylaError
from ..files import Advance, ignore, sha256
from . import resolve
from .catalogue import FILE_KINDS, Catalogue, ModelEntry
from .folders import ModelFolders
from .identify import FileKind, describe, examine

OK, MISSING = "ok", "missing"
_TABLE = """
CREATE TABLE IF NOT EXISTS hashes
(path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, inode INTEGER, sha256 TEXT)
"""
_WAIT_S = 2.0


@dataclass(frozen=True)
class Finding:
    """The state of one catalogue file: ``ok``, ``missing``, or the code of what is wrong with it."""

    entry: ModelEntry
    state: str
    message: str
    path: Path | None = None

    @property
    def ok(self) -> bool:
        return self.state == OK

    def as_dict(self) -> dict[str, object]:
        """The public JSON form."""
        return {"id": self.entry.id, "state": self.state, "path": self.path, "message": self.message}


def check(
    entry: ModelEntry,
    folders: ModelFolders,
    catalogue: Catalogue,
    hashes: HashCache,
    advance: Advance,
    *,
    refresh: bool = False,
) -> Finding:
    """Check one file of the catalogue wherever it lies in ``folders``. ``refresh`` ignores remembered hashes."""
    dangling = _dangling_link(entry, folders)
    if dangling is not None:
        return Finding(entry, "dangling_link", f"{dangling} links to nothing.", dangling)
    path = resolve.find_entry(entry, folders, catalogue)
    if path is None:
        searched = ", ".join(map(str, folders.get(entry.folder))) or "no folder is known"
        return Finding(entry, MISSING, f"{entry.folder}/{entry.filename} is not there. Searched: {searched}.")
    try:
        verify(entry, path, hashes, advance, refresh=refresh)
    except RylaError as error:
        return Finding(entry, error.code, error.message, path)
    return Finding(entry, OK, "", path)


def verify(entry: ModelEntry, path: Path, hashes: HashCache, advance: Advance, *, refresh: bool = False) -> FileKind:
    """Check that ``path`` holds exactly the bytes of ``entry`` and what is inside.

    Raises:
        RylaError: ``wrong_size``, ``hash_mismatch``, ``wrong_model_kind``, and those of ``identify.examine``.
    """
    try:
        kind = examine(path, PurePosixPath(entry.filename).suffix)
        size = path.stat().st_size
        if entry.size is not None and size != entry.size:
            raise RylaError(
                "wrong_size", f"{path} has {size:,} bytes, {entry.id} has {entry.size:,}.", path=path, size=size
            )
        digest = hashes.sha256(path, advance, refresh=refresh) if entry.sha256 else None
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    if digest != entry.sha256:
        raise RylaError(
            "hash_mismatch", f"{path} is not {entry.id}: its SHA-256 is {digest}, not {entry.sha256}.", path=path
        )
    if entry.kind in FILE_KINDS and kind.value != entry.kind:
        raise RylaError(
            "wrong_model_kind",
            f"{path} is {describe(path, kind)}, not {FileKind(entry.kind).description}.",
            path=path,
            kind=kind.value,
        )
    return kind


def _dangling_link(entry: ModelEntry, folders: ModelFolders) -> Path | None:
    links = (root / entry.filename for root in folders.get(entry.folder))
    return next((link for link in links if link.is_symlink() and not link.exists()), None)


class HashCache:
    """Digests of files that have not changed since (size, modification time, inode); kept in one SQLite file.

    A cache that cannot be read or written costs time, never correctness.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._usable = True

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
        if not self._usable:
            return []
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=_WAIT_S)) as connection, connection:
                connection.execute(_TABLE)
                return connection.execute(query, values).fetchall()
        except (OSError, sqlite3.Error):
            # A home without locks keeps SQLite waiting each time: once is enough.
            self._usable = False
            return []


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
