"""Prove that an installed file is the right one: size, hash, header, kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import RylaError
from ..files import Advance
from . import resolve
from .catalogue import FILE_KINDS, Catalogue, ModelEntry
from .contents import examine
from .folders import ModelFolders
from .hashing import HashCache
from .identify import FileKind

OK, MISSING = "ok", "missing"


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
        RylaError: ``wrong_size``, ``hash_mismatch``, ``wrong_model_kind``, and those of ``contents.examine``.
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
            f"{path} is {kind.description}, not {FileKind(entry.kind).description}.",
            path=path,
            kind=kind.value,
        )
    return kind


def _dangling_link(entry: ModelEntry, folders: ModelFolders) -> Path | None:
    links = (root / entry.filename for root in folders.get(entry.folder))
    return next((link for link in links if link.is_symlink() and not link.exists()), None)
