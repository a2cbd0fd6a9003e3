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
    passed_over: tuple[str, ...]

    def current(self, mtime_ns: int) -> bool:
        return self.settled and self.mtime_ns == mtime_ns


class Listing:
    """Lists the files that end in one of ``suffixes``, in whatever case, with one ``stat`` per unchanged directory.

    Hidden names are left out. A link is followed only when ``inside`` says that its target is allowed.
    """

    def __init__(self, suffixes: tuple[str, ...], inside: Callable[[Path], bool]) -> None:
        self._suffixes = suffixes
        self._inside = inside
        self._known: dict[Path, _Directory] = {}

    def files(self, root: Path) -> list[str]:
        """Paths below ``root``, "/"-separated and sorted; [] when the folder is absent or unreadable."""
        found = self._walk(root, "", 0, set())
        return sorted(f"{prefix}{name}" for prefix, entry in found for name in entry.files)

    def passed_over(self, root: Path) -> list[str]:
        """The links below ``root`` that were not followed, as their targets are not allowed."""
        found = self._walk(root, "", 0, set())
        return sorted(f"{prefix}{name}" for prefix, entry in found for name in entry.passed_over)

    def _walk(
        self, directory: Path, prefix: str, depth: int, seen: set[tuple[int, int]]
    ) -> Iterator[tuple[str, _Directory]]:
        try:
            status = directory.stat()
            entry = self._known.get(directory)
            if entry is None or not entry.current(status.st_mtime_ns):
                entry = self._known[directory] = self._read(directory, status.st_mtime_ns)
        except OSError:
            self._known.pop(directory, None)
            return
        identity = (status.st_dev, status.st_ino) if status.st_ino else (0, hash(os.path.realpath(directory)))
        if identity in seen:
            return
        seen.add(identity)
        yield prefix, entry
        if depth < _MAX_DEPTH:
            for name in entry.folders:
                yield from self._walk(directory / name, f"{prefix}{name}/", depth + 1, seen)

    def _read(self, directory: Path, mtime_ns: int) -> _Directory:
        settled = is_settled(mtime_ns)
        files: list[str] = []
        folders: list[str] = []
        passed_over: list[str] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                kind = self._kind(entry)
                if kind == "folder":
                    folders.append(entry.name)
                elif kind == "link":
                    passed_over.append(entry.name)
                elif kind == "file" and entry.name.casefold().endswith(self._suffixes):
                    files.append(entry.name)
        return _Directory(mtime_ns, settled, tuple(files), tuple(folders), tuple(passed_over))

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """ "file", "folder", "link" for one that must not be followed, or "" for what is hidden or none of these."""
        try:
            if entry.name.startswith("."):
                return ""
            kind = "folder" if entry.is_dir() else "file" if entry.is_file() else ""
            return "link" if kind and entry.is_symlink() and not self._inside(Path(entry.path)) else kind
        except OSError:  # A link to itself, or a network file system's stale entry.
            return ""
