"""From a catalogue id to the file on this machine, checked by its header."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .. import commands
from ..errors import RylaError
from . import catalogue as catalogues
from .catalogue import FILE_KINDS, Catalogue, ModelEntry
from .folders import ModelFolders
from .identify import FileKind, describe, examine

_MAX_SEEN = 8


@dataclass(frozen=True)
class Located:
    """A model on this machine: the entry it stands for (or an alternative's), its path, and what the header says.

    ``kind`` is UNKNOWN for what has no header of its own (ONNX files, tokenizers, bundles).
    """

    entry: ModelEntry
    path: Path
    kind: FileKind


def resolve(model: ModelEntry | str, folders: ModelFolders, catalogue: Catalogue | None = None) -> Path:
    """The path of a catalogue model, or of its first alternative that is there. See ``locate``."""
    return locate(model, folders, catalogue).path


def locate(model: ModelEntry | str, folders: ModelFolders, catalogue: Catalogue | None = None) -> Located:
    """Find a catalogue model, or its first alternative, in ``folders`` and look at its header.

    A file may turn out to be of an alternative's kind (two files are called ``flux1-dev-fp8.safetensors``): ``kind``
    says what it is. A bundle's path is the directory with its files.

    Raises:
        RylaError: ``missing_model`` with the folders searched and the files seen there, ``wrong_model_kind``,
            ``nested_models``, and those of ``identify.examine``.
    """
    known = catalogue or catalogues.load()
    entry = known.get(model) if isinstance(model, str) else model
    candidates = (entry, *(known.get(name) for name in entry.alternatives))
    accepted = {candidate.kind for candidate in candidates}
    for candidate in candidates:
        path = find_entry(candidate, folders, known)
        if path is not None:
            return Located(candidate, path, _verified_kind(candidate, path, accepted))
    raise _missing(entry, candidates, folders, known)


def find_entry(entry: ModelEntry, folders: ModelFolders, catalogue: Catalogue) -> Path | None:
    """Where exactly this entry is (no alternative, no look inside), or None."""
    if entry.is_bundle:
        places = bundle_folders(entry, folders.get(entry.folder))
        return next((path for path, nested in places if not nested and is_whole(path, entry, catalogue)), None)
    exact = folders.find(entry.folder, entry.filename)
    if exact is not None and exact.is_file():
        return exact
    if "/" not in entry.filename:
        return folders.find_name(entry.folder, entry.filename)
    return _same_size(entry, folders, catalogue)


def bundle_folders(entry: ModelEntry, roots: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Where a bundle (or the folder of a file) may be below ``roots``, and whether that is one level too deep.

    InsightFace's packs are under ``models/NAME`` and ``NAME``; their zips make ``NAME/NAME``.
    """
    for root in roots:
        for name in dict.fromkeys((entry.filename, entry.filename.removeprefix("models/"))):
            yield root / name, False
            yield root / name / PurePosixPath(name).name, True


def is_whole(folder: Path, entry: ModelEntry, catalogue: Catalogue) -> bool:
    """Whether ``folder`` holds every part of a bundle that is not optional."""
    return not any(not part.optional for part in missing_parts(folder, entry, catalogue))


def missing_parts(folder: Path, entry: ModelEntry, catalogue: Catalogue) -> list[ModelEntry]:
    """The parts of a bundle that ``folder`` lacks."""
    parts = catalogue.files(entry)
    return [part for part in parts if not (folder / PurePosixPath(part.filename).name).is_file()]


def _same_size(entry: ModelEntry, folders: ModelFolders, catalogue: Catalogue) -> Path | None:
    """A file below the folder with exactly the entry's size: names like ``diffusion_pytorch_model`` tell nothing.

    A file that has the place of another entry is that entry's.
    """
    suffix = PurePosixPath(entry.filename).suffix
    taken = {other.filename for other in catalogue if other.folder == entry.folder}
    for name in folders.list(entry.folder) if entry.size is not None else ():
        path = folders.find(entry.folder, name)
        if path is not None and name not in taken and path.suffix == suffix and path.stat().st_size == entry.size:
            return path
    return None


def _verified_kind(entry: ModelEntry, path: Path, accepted: set[str]) -> FileKind:
    if entry.is_bundle:
        return FileKind.UNKNOWN
    kind = examine(path)
    if entry.kind in FILE_KINDS and kind.value not in accepted:
        wanted = " or ".join(sorted(FileKind(value).description for value in accepted))
        raise RylaError(
            "wrong_model_kind",
            f"{path} is {describe(path, kind)}; {entry.id} is {wanted}.",
            hint=f"Move it to the folder of its kind, then: {_install(entry)}",
            path=path,
            kind=kind.value,
        )
    return kind


def _missing(
    entry: ModelEntry, candidates: tuple[ModelEntry, ...], folders: ModelFolders, catalogue: Catalogue
) -> RylaError:
    nested = _nested(entry, folders, catalogue) if entry.is_bundle else None
    if nested is not None:
        return RylaError(
            "nested_models",
            f"{nested.parent} holds its files one level too deep, in {nested}.",
            hint=_install(entry),
            path=nested.parent,
        )
    searched = list(dict.fromkeys(str(path) for item in candidates for path in folders.get(item.folder)))
    names = list(dict.fromkeys(f"{item.folder}/{item.filename}" for item in candidates))
    seen = list(dict.fromkeys(name for item in candidates for name in folders.list(item.folder)))
    return RylaError(
        "missing_model",
        f"{' or '.join(names)} is not there. Searched: {', '.join(searched) or 'no folder is known'}."
        + (f" Found there: {', '.join(seen[:_MAX_SEEN])}{' ...' if len(seen) > _MAX_SEEN else ''}." if seen else ""),
        hint=_install(entry),
        model=entry.id,
        files=names,
        searched=searched,
        seen=seen,
    )


def _nested(entry: ModelEntry, folders: ModelFolders, catalogue: Catalogue) -> Path | None:
    """A folder one level too deep that holds a part of the bundle."""
    deep = (path for path, nested in bundle_folders(entry, folders.get(entry.folder)) if nested)
    count = len(entry.parts)
    return next((path for path in deep if len(missing_parts(path, entry, catalogue)) < count), None)


def no_such_file(name: str, folders: ModelFolders, *kinds: str) -> RylaError:
    """The ``missing_model`` of a file that was asked for by name and lies in none of the folders ``kinds``."""
    searched = [str(path) for kind in kinds for path in folders.get(kind)]
    entry = catalogues.load().named(name, *kinds)
    hint = _install(entry) if entry else "Put it into one of these folders, or choose auto."
    line = f"{name} is not there. Searched: {', '.join(searched) or 'no folder is known'}."
    return RylaError("missing_model", line, hint=hint, model=entry.id if entry else None, searched=searched)


def _install(entry: ModelEntry) -> str:
    return commands.install([entry.id])
