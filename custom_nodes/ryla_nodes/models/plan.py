"""What an installation will do, worked out before anything is touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from .. import files
from ..errors import RylaError
from . import catalogue as catalogues
from . import hub
from .catalogue import Catalogue, ModelEntry
from .folders import ModelFolders, at_root, of_comfyui
from .resolve import find_entry
from .workspace import is_comfyui

PRESENT, REUSE, DOWNLOAD = "present", "reuse", "download"
WORK_FOLDER = ".ryla"


@dataclass(frozen=True)
class Target:
    """Where files go: ``root`` is laid out like ComfyUI's ``models/``; ``folders`` is where they count as there."""

    root: Path
    folders: ModelFolders

    def path(self, entry: ModelEntry) -> Path:
        """The place of an entry's file."""
        return self.root / entry.folder / entry.filename

    def part(self, entry: ModelEntry, version: str) -> Path:
        """The unfinished download of one version (hash) of an entry's file."""
        return self.work / f"{self.key(entry)}.{version[:16]}.part"

    def parts(self, entry: ModelEntry) -> list[Path]:
        """All unfinished downloads for an entry's place."""
        return sorted(self.work.glob(f"{self.key(entry)}.*.part"))

    def key(self, entry: ModelEntry) -> str:
        """A name for the entry's place, the same for all entries with that place."""
        return f"{entry.folder}--{entry.filename.replace('/', '--')}"

    @property
    def work(self) -> Path:
        """The folder of unfinished downloads and locks; ComfyUI does not look into it."""
        return self.root / WORK_FOLDER


def volume_target(volume: Path) -> Target:
    """The volume as a target."""
    return Target(volume, at_root(volume))


def comfyui_target(comfyui: Path) -> Target:
    """A ComfyUI's ``models/`` as a target.

    Raises:
        RylaError: ``not_a_comfyui``.
    """
    if not is_comfyui(comfyui):
        raise RylaError("not_a_comfyui", f"{comfyui} is not the folder of a ComfyUI.", path=comfyui)
    return Target(comfyui / "models", of_comfyui(comfyui))


@dataclass(frozen=True)
class Step:
    """What will be done for one file: nothing (``present``), ``reuse`` of ``origin``, or ``download`` from it.

    ``bytes`` is what it takes of the target's disk; ``replace`` allows a damaged file at ``target`` to be replaced.
    """

    entry: ModelEntry
    action: str
    target: Path
    origin: str = ""
    bytes: int = 0
    replace: bool = False

    def as_dict(self) -> dict[str, object]:
        """The public JSON form."""
        return {
            "id": self.entry.id,
            "action": self.action,
            "target": self.target,
            "from": self.origin,
            "bytes": self.bytes,
            "replace": self.replace,
            "license": self.entry.license,
            "license_url": self.entry.license_url,
            "gated": self.entry.gated,
        }


@dataclass(frozen=True)
class Plan:
    """The steps of an installation; ``needed`` and ``free`` are bytes on the target's disk.

    ``free`` is None where the disk does not tell it: that it is full then shows when it is written to.
    """

    target: Target
    steps: tuple[Step, ...]
    needed: int
    free: int | None

    def require_space(self) -> None:
        """Raise ``disk_full`` when the target's disk is too small for the plan."""
        if self.free is not None and self.needed > self.free:
            raise RylaError(
                "disk_full",
                f"{self.target.root} has {self.free / 1e9:.1f} GB free, {self.needed / 1e9:.1f} GB are needed.",
                needed=self.needed,
                free=self.free,
            )


def make(
    wanted: Iterable[ModelEntry],
    target: Target,
    catalogue: Catalogue,
    elsewhere: ModelFolders = ModelFolders(),
    damaged: Mapping[str, Path] = MappingProxyType({}),
) -> Plan:
    """Plan the installation of single files.

    Args:
        elsewhere: folders whose files are used instead of a download.
        damaged: paths of files to replace, by entry id.
    """
    steps = tuple(_step(entry, target, catalogue, elsewhere, damaged.get(entry.id)) for entry in wanted)
    needed = sum(step.bytes for step in steps)
    return Plan(target, steps, needed, files.free_bytes(target.root))


def _step(
    entry: ModelEntry, target: Target, catalogue: Catalogue, elsewhere: ModelFolders, damaged: Path | None
) -> Step:
    place = damaged or target.path(entry)
    there = None if damaged else find_entry(entry, target.folders, catalogue)
    if there is not None:
        return Step(entry, PRESENT, there)
    found = next((path for path in candidates(entry, catalogue, elsewhere) if path != damaged), None)
    if found is not None:
        shared = found.stat().st_dev == files.existing(target.root).stat().st_dev
        return Step(entry, REUSE, place, str(found), 0 if shared else found.stat().st_size, damaged is not None)
    origins = catalogues.sources_of(entry, catalogue)
    done = sum(part.stat().st_size for part in target.parts(entry))
    left = max((entry.size or 0) - done, 0)
    return Step(entry, DOWNLOAD, place, str(origins[0]) if origins else "", left, damaged is not None)


def candidates(entry: ModelEntry, catalogue: Catalogue, elsewhere: ModelFolders) -> Iterator[Path]:
    """Files on this machine that may be the entry's: same name or place, same size; the hash is still to be checked.

    Without a hash only the hub's own cache of the pinned revision is trusted.
    """
    found: list[Path | None] = []
    if entry.sha256 is not None:
        base = PurePosixPath(entry.filename).name
        found += [find_entry(entry, elsewhere, catalogue), elsewhere.find_name(entry.folder, base)]
    for source in catalogues.sources_of(entry, catalogue):
        found += hub.cached(source, entry.sha256)
    for path in dict.fromkeys(filter(None, found)):
        size = _size(path)
        if size is not None and size == (entry.size or size):
            yield path


def _size(path: Path) -> int | None:
    """The size of a file that can be read; None for what cannot, or is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK) else None
