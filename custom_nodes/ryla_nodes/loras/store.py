"""From a LoRA id to its file, in the volume first and then in the engine's LoRA folders.

The candidates of an id are looked up by name, so the cost does not grow with the folder and a new file is seen at once.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RylaError
from ..files import PICKLE_SUFFIXES, is_settled
from ..similar import similar
from . import ids, refresh
from .listing import Listing

if TYPE_CHECKING:
    from ..models.folders import ModelFolders
    from ..settings import Settings

_NEAREST = 3
_SHOWN_LINKS = 3
_KEPT = 256
_KEPT_S = 60.0  # Some mounts do not change a folder's mtime when a file comes.


@dataclass(frozen=True)
class LoraFile:
    """One LoRA file. ``name`` is its path below ``root``; ``also`` are the other files of the same id, not taken."""

    id: str
    name: str
    path: Path
    root: Path
    size: int
    mtime_ns: int
    inode: tuple[int, int]
    also: tuple[Path, ...] = ()

    @property
    def key(self) -> tuple[Path, int, int]:
        """What a cache of the loaded file depends on: path, mtime, size."""
        return self.path, self.mtime_ns, self.size


@dataclass(frozen=True)
class _Found:
    """An answer, the folders that could change it by their mtimes, and when it was found."""

    file: LoraFile
    folders: Mapping[Path, int]
    at: float

    @property
    def holds(self) -> bool:
        """Whether the same search would find the same file: a job asks for its id three times."""
        recent = time.monotonic() - self.at < _KEPT_S
        return recent and _mtimes(self.folders) == self.folders and _unchanged(self.file)


@dataclass
class _Search:
    """One pass over the folders, and what it met besides files."""

    outside: list[Path]
    unreadable: list[str]


class LoraStore:
    """The LoRAs below ``roots``; the first root wins, and within a root the newest file.

    Args:
        roots: LoRA folders, the volume's first; a folder that does not exist (yet) is allowed.
        refresh: called once before an id is said to be missing.
        allowed: further folders that links in the roots may lead to.
    """

    def __init__(
        self, roots: Sequence[Path], refresh: Callable[[], None] | None = None, allowed: Sequence[Path] = ()
    ) -> None:
        self.roots = tuple(dict.fromkeys(Path(root) for root in roots))
        self._refresh = refresh
        self._allowed = tuple(dict.fromkeys((*self.roots, *allowed)))
        self._listing = Listing(ids.SUFFIXES, self.inside)
        self._listed: dict[tuple[Path, str], LoraFile] = {}
        self._found: dict[str, _Found] = {}

    def find(self, lora_id: str) -> LoraFile:
        """The file of an id (see ``ids.parse`` for its forms).

        Raises:
            RylaError: ``invalid_lora_id``, ``lora_pickle``, ``lora_not_found`` (searched folders and the three nearest
                ids), ``lora_outside_folders`` (a link that leads out), ``volume_refresh_failed``.
        """
        wanted = ids.parse(lora_id)
        known = self._found.pop(wanted.text, None)
        if known is None or not known.holds:
            folders = _mtimes({(root / name).parent for root in self.roots for name in wanted.files()})
            known = _Found(self._find(wanted), folders, time.monotonic())
        if all(map(is_settled, known.folders.values())):
            if len(self._found) >= _KEPT:
                self._found.clear()
            self._found[wanted.text] = known
        return known.file

    def has(self, lora_id: str) -> bool:
        """Whether an id has a file now; text that is no id has none, and nothing is refreshed for it."""
        try:
            return self._search(ids.parse(lora_id), _Search([], [])) is not None
        except RylaError:
            return False

    def _find(self, wanted: ids.LoraId) -> LoraFile:
        search = _Search([], [])
        found = self._search(wanted, search)
        if found is None and self._refresh is not None:
            self._refresh()
            search = _Search([], [])
            found = self._search(wanted, search)
        if found is None:
            raise self._not_found(wanted, search)
        return found

    def list(self) -> tuple[LoraFile, ...]:
        """Every LoRA file below the roots, by id; a file reachable from two roots is listed once."""
        listed: dict[tuple[Path, str], LoraFile] = {}
        for root in self.roots:
            for name in self._listing.files(root):
                known = self._listed.get((root, name))
                file = known if known and _unchanged(known) else _file(root, name, _Search([], []))
                if file is not None:
                    listed[root, name] = file
        self._listed = listed
        unique = {file.inode: file for file in reversed(listed.values())}
        return tuple(sorted(unique.values(), key=lambda file: (file.id.casefold(), file.name)))

    def passed_over(self) -> tuple[Path, ...]:
        """The links below the roots that are not followed, as they lead out of the folders that are allowed."""
        return tuple(root / name for root in self.roots for name in self._listing.passed_over(root))

    def _search(self, wanted: ids.LoraId, search: _Search) -> LoraFile | None:
        return self._first(wanted, lambda root, group: group, search) or self._first(wanted, self._unusual, search)

    def _first(
        self, wanted: ids.LoraId, names: Callable[[Path, Sequence[str]], Sequence[str]], search: _Search
    ) -> LoraFile | None:
        for group in wanted.groups():
            hits = [hit for root in self.roots for hit in self._newest_first(root, names(root, group), search)]
            if hits:
                others = {hit.inode: hit.path for hit in reversed(hits) if hit.inode != hits[0].inode}
                return replace(hits[0], also=tuple(reversed(others.values())))
        return None

    def _unusual(self, root: Path, group: Sequence[str]) -> Sequence[str]:
        """The files of these names in ``root`` that are written ``.SAFETENSORS`` or ``.sft``."""
        return [name for name in self._listing.files(root) if ids.normal(name) in group and name not in group]

    def _newest_first(self, root: Path, names: Iterable[str], search: _Search) -> Sequence[LoraFile]:
        files = [file for name in names if (file := _file(root, name, search)) is not None]
        inside = [file for file in files if self.inside(file.path)]
        search.outside.extend(file.path for file in files if file not in inside)
        return sorted(inside, key=lambda file: -file.mtime_ns)

    def inside(self, path: Path) -> bool:
        """Whether a path lies in one of the folders that are allowed, links followed."""
        real = os.path.realpath(path)
        roots = (os.path.realpath(root) for root in self._allowed)
        return any(os.path.commonpath((real, root)) == root for root in roots if _same_drive(real, root))

    def _not_found(self, wanted: ids.LoraId, search: _Search) -> RylaError:
        if search.outside:
            return RylaError(
                "lora_outside_folders",
                f"{search.outside[0]} is a link that leads out of the LoRA folders; it is not followed.",
                hint="Copy the file in: ryla loras add FILE. Or allow its target's folder: RYLA_LORA_ROOTS=FOLDER.",
                lora_id=wanted.text,
            )
        pickle = self._pickle(wanted)
        if pickle is not None:
            return ids.pickle_refused(str(pickle))
        names = wanted.files()
        close = _nearest(wanted.core, {ids.short_id(name) for root in self.roots for name in self._listing.files(root)})
        where = ", ".join(map(str, self.roots)) or "no folder (set RYLA_VOLUME)"
        unreadable = f" Not readable: {'; '.join(search.unreadable)}." if search.unreadable else ""
        links = self.passed_over()
        return RylaError(
            "lora_not_found",
            f"No LoRA {wanted.text!r}: looked for {', '.join(names)} in {where}."
            f"{' Nearest: ' + ', '.join(close) + '.' if close else ' There is no LoRA at all.'}{unreadable}"
            f"{_passed_over(links)}",
            hint="Allow the folders that the links lead to: RYLA_LORA_ROOTS=FOLDER." if links else "",
            lora_id=wanted.text,
            folders=[str(root) for root in self.roots],
            nearest=list(close),
            passed_over=[str(link) for link in links],
        )

    def _pickle(self, wanted: ids.LoraId) -> Path | None:
        stems = (name[: -len(ids.SUFFIX)] for name in wanted.files())
        paths = (root / f"{stem}{suffix}" for stem in stems for root in self.roots for suffix in PICKLE_SUFFIXES)
        return next((path for path in paths if path.is_file()), None)


def _passed_over(links: Sequence[Path]) -> str:
    if not links:
        return ""
    shown = ", ".join(map(str, links[:_SHOWN_LINKS])) + (" ..." if len(links) > _SHOWN_LINKS else "")
    return f" Not followed, as they lead out of the LoRA folders: {len(links)} links ({shown})."


def _nearest(wanted: str, known: Iterable[str]) -> tuple[str, ...]:
    """Three ids: the most alike first, then the first ones by name."""
    ordered = sorted(known)
    return tuple(dict.fromkeys((*similar(wanted, ordered, _NEAREST), *ordered[:_NEAREST])))[:_NEAREST]


def _file(root: Path, name: str, search: _Search) -> LoraFile | None:
    path = root / name
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            search.unreadable.append(f"{path}: {error.strerror}")
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # Some mounts number no file: then its path is what tells it from others.
    inode = (status.st_dev, status.st_ino) if status.st_ino else (0, hash(path))
    return LoraFile(ids.short_id(name), name, path, root, status.st_size, status.st_mtime_ns, inode)


def _unchanged(file: LoraFile) -> bool:
    try:
        status = file.path.stat()
    except OSError:
        return False
    return file.size == status.st_size and file.mtime_ns == status.st_mtime_ns and file.inode[1] == status.st_ino


def _mtimes(folders: Iterable[Path]) -> dict[Path, int]:
    """The mtimes of folders in ns, 0 for one that is not there."""
    return {folder: _mtime(folder) for folder in folders}


def _mtime(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _same_drive(first: str, second: str) -> bool:
    return os.path.splitdrive(first)[0].casefold() == os.path.splitdrive(second)[0].casefold()


def of_engine(folders: ModelFolders, known: Settings) -> LoraStore:
    """The LoRAs of an engine: the volume's, then those of its folders; links may lead to any of its model folders."""
    roots = (*((known.volume / "loras",) if known.volume else ()), *folders.get("loras"))
    return shared(roots, (*known.lora_roots, *folders.every()))


@lru_cache(maxsize=32)
def _shared(roots: tuple[Path, ...], allowed: tuple[Path, ...]) -> LoraStore:
    return LoraStore(roots, refresh.run, allowed)


def shared(roots: Sequence[Path], allowed: Sequence[Path] = ()) -> LoraStore:
    """The process's store of these folders: keeps its listing, and uses the deployment's refresh hook."""
    return _shared(tuple(roots), tuple(allowed))
