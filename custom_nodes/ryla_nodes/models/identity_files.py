"""Which files of SDXL, InstantID and InsightFace are meant: those of the catalogue, or the only one of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from .. import commands
from ..errors import RylaError
from . import catalogue, resolve, shipped
from .catalogue import ModelEntry
from .folders import ModelFolders
from .headers import read_header
from .identify import FileKind, identify

AUTO = "auto"
PACK = "antelopev2"
SCORER = "buffalo_l-w600k_r50"


@dataclass(frozen=True)
class IdentityFiles:
    """The files of one SDXL with InstantID; ``insightface`` is a folder of face models."""

    checkpoint: Path
    adapter: Path
    control_net: Path
    insightface: Path


@dataclass(frozen=True)
class IdentitySearch:
    """The search for them in ``folders``; ``own`` (the engine's small models) is taken where nothing else is there.

    Names are those of files in their folder, or ``auto``. Every search raises ``missing_model``,
    ``ambiguous_model`` when several unknown files would do, and ``damaged_package`` when ``own`` are not whole.
    """

    folders: ModelFolders
    own: IdentityFiles | None = None

    def checkpoint(self, name: str) -> Path:
        """The SDXL checkpoint ``name``, or with ``auto`` RealVisXL V5.0, SDXL base, or the only SDXL checkpoint."""
        return self._choose("checkpoints", name, "realvisxl-v5", FileKind.SDXL_CHECKPOINT, lambda own: own.checkpoint)

    def adapter(self, name: str) -> Path:
        """InstantID's adapter ``name``, or with ``auto`` the catalogue's or the only one."""
        return self._choose("instantid", name, "instantid-adapter", FileKind.INSTANTID_ADAPTER, lambda own: own.adapter)

    def control_net(self, name: str) -> Path:
        """InstantID's ControlNet ``name``, or with ``auto`` the catalogue's or the only SDXL one of diffusers' form."""
        kind = FileKind.CONTROLNET_SDXL_INSTANTID
        return self._choose("controlnet", name, "instantid-controlnet", kind, lambda own: own.control_net)

    def insightface(self) -> tuple[Path, ...]:
        """The folders to look for face models in, the engine's own small ones last."""
        return (*self.folders.get("insightface"), *([self.own.insightface] if self.own else ()))

    def only_own_checkpoint(self) -> bool:
        """Whether the engine has a small SDXL of its own, and no other."""
        own = self.own
        return own is not None and not self._of_kind("checkpoints", FileKind.SDXL_CHECKPOINT, own.checkpoint)

    def _choose(
        self, folder: str, name: str, model_id: str, kind: FileKind, part: Callable[[IdentityFiles], Path]
    ) -> Path:
        own = None if self.own is None else part(self.own)
        found = self._named(folder, name) if name != AUTO else self._search(folder, model_id, kind, own)
        if shipped.holds(found):
            shipped.require()
        return found

    def _search(self, folder: str, model_id: str, kind: FileKind, own: Path | None) -> Path:
        try:
            return resolve.resolve(model_id, self.folders)
        except RylaError as error:
            if error.code != "missing_model":
                raise
            hits = self._of_kind(folder, kind, own)
            if not hits and own is None:
                raise
        if len(hits) > 1:
            line = f"{len(hits)} files are {kind.description}: {', '.join(map(str, hits))}."
            raise RylaError("ambiguous_model", line, hint="Name one of them, or keep only one.")
        return hits[0] if hits or own is None else own

    def _named(self, folder: str, name: str) -> Path:
        path = self.folders.find(folder, name)
        if path is None:
            raise resolve.no_such_file(name, self.folders, folder)
        return path

    def _of_kind(self, folder: str, kind: FileKind, ignored: Path | None) -> list[Path]:
        paths = (self.folders.find(folder, name) for name in self.folders.list(folder))
        return [path for path in paths if path is not None and path != ignored and _is(path, kind)]


def _is(path: Path, kind: FileKind) -> bool:
    status = path.stat()
    return _kind(path, status.st_mtime_ns, status.st_size) is kind


@lru_cache(maxsize=1024)
def _kind(path: Path, _mtime: int, _size: int) -> FileKind | None:
    """A broken file is of no kind here: it only matters when it is asked for by name."""
    try:
        return identify(read_header(path))
    except RylaError:
        return None


def find_pack(roots: Sequence[Path]) -> Path:
    """The folder that holds antelopev2's detector and recogniser, below one of the ``insightface`` folders ``roots``.

    The nested ``antelopev2/antelopev2`` that the zip makes will do. Raises ``missing_model``, naming which of the five
    files is missing in which folder, or the searched folders.
    """
    known = catalogue.load()
    entry = known.get(PACK)
    incomplete: list[Path] = []
    for folder, _ in resolve.bundle_folders(entry, roots):
        if resolve.is_whole(folder, entry, known):
            return folder
        if any(folder.glob("*.onnx")):
            incomplete.append(folder)
    hint = commands.install([PACK])
    if incomplete:
        line = " ".join(_lacking(folder, resolve.missing_parts(folder, entry, known)) for folder in incomplete)
        raise RylaError("missing_model", line, hint=hint)
    needed = ", ".join(_name(part) for part in known.files(entry) if not part.optional)
    raise RylaError("missing_model", f"No {PACK} ({needed}) in {_searched(roots, entry.filename)}.", hint=hint)


def _lacking(folder: Path, parts: Sequence[ModelEntry]) -> str:
    needed, unused = ([_name(part) for part in parts if part.optional is optional] for optional in (False, True))
    aside = f" ({', '.join(unused)} too, but nothing here reads those)" if unused else ""
    return f"{folder} lacks {' and '.join(needed)}{aside}."


def find_scorer(roots: Sequence[Path]) -> Path:
    """``w600k_r50.onnx``, the recogniser that similarity is scored with. Raises ``missing_model``."""
    entry = catalogue.load().get(SCORER)
    found = next((path for path in _scorers(entry, roots) if path.is_file()), None)
    if found is not None:
        return found
    where = _searched(roots, str(PurePosixPath(entry.filename).parent))
    line = f"No {_name(entry)}, the recogniser for scoring, in {where}."
    raise RylaError("missing_model", line, hint=commands.install([SCORER]))


def _scorers(entry: ModelEntry, roots: Sequence[Path]) -> Iterator[Path]:
    pack = replace(entry, filename=str(PurePosixPath(entry.filename).parent))
    yield from (folder / _name(entry) for folder, _ in resolve.bundle_folders(pack, roots))
    yield from (root / _name(entry) for root in roots)


def _name(part: ModelEntry) -> str:
    return PurePosixPath(part.filename).name


def _searched(roots: Sequence[Path], filename: str) -> str:
    return ", ".join(str(root / filename) for root in roots) or "any insightface folder (none is configured)"
