"""The names of all files below a folder, read again only where a directory changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files import is_settled

_MAX_DEPTH = 6


@dataclass(frozen=True)
class _Directory:
    mtime_ns: int
    settled: bool
    files: tuple[str, ...]
    folders: tuple[str, ...]

    def current(self, mtime_ns: int) -> bool:
        return self.settled and self.mtime_ns == mtime_ns


class Listing:
    """Lists the files that end in ``suffix``, with one ``stat`` per directory that did not change.

    Hidden names are left out. A link is followed only when ``inside`` says that its target is allowed.
    """

    def __init__(self, suffix: str, inside: Callable[[Path], bool]) -> None:
        self._suffix = suffix
        self._inside = inside
        self._known: dict[Path, _Directory] = {}

    def files(self, root: Path) -> list[str]:
        """Paths below ``root``, "/"-separated and sorted; [] when the folder is absent or unreadable."""
        return sorted(self._walk(root, "", 0, set()))

    def _walk(self, directory: Path, prefix: str, depth: int, seen: set[tuple[int, int]]) -> Iterator[str]:
        try:
            status = directory.stat()
            entry = self._known.get(directory)
            if entry is None or not entry.current(status.st_mtime_ns):
                entry = self._known[directory] = self._read(directory, status.st_mtime_ns)
        except OSError:
            self._known.pop(directory, None)
            return
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        yield from (f"{prefix}{name}" for name in entry.files)
        if depth < _MAX_DEPTH:
            for name in entry.folders:
                yield from self._walk(directory / name, f"{prefix}{name}/", depth + 1, seen)

    def _read(self, directory: Path, mtime_ns: int) -> _Directory:
        settled = is_settled(mtime_ns)
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                kind = self._kind(entry)
                if kind == "folder":
                    folders.append(entry.name)
                elif kind == "file" and entry.name.endswith(self._suffix):
                    files.append(entry.name)
        return _Directory(mtime_ns, settled, tuple(files), tuple(folders))

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """ "file", "folder", or "" for what is neither, hidden, or a link that must not be followed."""
        try:
            if entry.name.startswith(".") or (entry.is_symlink() and not self._followed(entry)):
                return ""
            return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
        except OSError:  # A link to itself, or a network file system's stale entry.
            return ""

    def _followed(self, entry: os.DirEntry[str]) -> bool:
        path = Path(entry.path)
        return path.exists() and self._inside(path)
