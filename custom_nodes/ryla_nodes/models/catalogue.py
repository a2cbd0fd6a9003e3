"""The catalogue of model files (``catalogue.toml``, typed), and where their bytes can be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from .. import settings
from ..errors import RylaError
from ..similar import similar
from .identify import FileKind

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUNDLE = "bundle"
FILE_KINDS = frozenset(kind.value for kind in FileKind)
KINDS = FILE_KINDS | {BUNDLE, "onnx", "tokenizer", "config", "other"}
_SHIPPED = Path(__file__).with_name("catalogue.toml")


@dataclass(frozen=True)
class ModelEntry:
    """One model file (or, with ``parts``, a folder of them) and where it comes from.

    Attributes:
        kind: a ``FileKind`` value, or ``onnx``, ``tokenizer``, ``config``, ``bundle``, or ``other`` (never checked).
        folder: ComfyUI's name of the model folder; ``filename`` is relative to it, with ``/``.
        repo, path: where it lies on the Hugging Face hub; empty for a bundle and for what is shipped.
        revision: the pinned commit, None where none is known (then ``sha256`` alone says what is right).
        size: bytes, None where unknown. sha256: lower-case hex, None where unknown.
        precision: ``fp16`` or ``fp8`` where the model exists in both.
        alternatives: ids that can stand in for it, best first.
        includes: ids that this file makes unnecessary.
        mirrors: other places of the same bytes, ``hf://owner/repo[@revision]/path`` or ``https://...``.
        archive: id of an archive that holds a member of the same base name.
        parts: ids of a bundle's files. optional: a part that our nodes do not need.
        shipped: the file comes with the package (``models.shipped``) and is fetched from nowhere.
    """

    id: str
    title: str
    kind: str
    folder: str
    filename: str
    license: str
    license_url: str
    repo: str = ""
    path: str = ""
    revision: str | None = None
    size: int | None = None
    sha256: str | None = None
    gated: bool = False
    precision: str | None = None
    alternatives: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    archive: str | None = None
    parts: tuple[str, ...] = ()
    optional: bool = False
    shipped: bool = False

    @property
    def is_bundle(self) -> bool:
        return bool(self.parts)


@dataclass(frozen=True)
class Archive:
    """A zip that holds several catalogue files, and its mirrors (``hf://`` or ``https://``), best first."""

    id: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Catalogue:
    """All known models and archives, by id, in the file's order."""

    models: Mapping[str, ModelEntry]
    archives: Mapping[str, Archive]

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self.models.values())

    def get(self, model_id: str) -> ModelEntry:
        """The entry of ``model_id``.

        Raises:
            RylaError: ``unknown_model``, with the nearest real id.
        """
        if model_id in self.models:
            return self.models[model_id]
        near = list(similar(model_id, self.models, likeness=0.4))
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise RylaError("unknown_model", f"The catalogue has no model {model_id!r}.{guess}", nearest=near)

    def named(self, filename: str, *folders: str) -> ModelEntry | None:
        """The entry of ``folders`` (of any, when none is given) whose file has the name of ``filename``, or None."""
        base = PurePosixPath(filename.replace("\\", "/")).name
        known = (entry for entry in self if not folders or entry.folder in folders)
        return next((entry for entry in known if PurePosixPath(entry.filename).name == base), None)

    def files(self, entry: ModelEntry) -> tuple[ModelEntry, ...]:
        """The files behind an entry: itself, or the parts of a bundle."""
        return tuple(self.get(part) for part in entry.parts) if entry.is_bundle else (entry,)


@dataclass(frozen=True)
class HubSource:
    """A file of a Hugging Face repository; ``revision`` None is its main branch; ``gated`` as the catalogue knows."""

    repo: str
    path: str
    revision: str | None = None
    gated: bool = False

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}"


@dataclass(frozen=True)
class UrlSource:
    """A plain ``https://`` file."""

    url: str

    def __str__(self) -> str:
        return self.url


Source = HubSource | UrlSource


def load(override: Path | None = None) -> Catalogue:
    """The shipped catalogue, with the tables of ``override`` (default: ``RYLA_CATALOGUE``) merged over it by id.

    Raises:
        RylaError: ``invalid_catalogue`` for a file that does not parse or whose tables are wrong.
    """
    path = override or settings.load().catalogue
    return _load(path, path.stat().st_mtime_ns if path and path.is_file() else 0)


@cache
def _load(override: Path | None, _mtime: int) -> Catalogue:
    tables = _tables(_SHIPPED)
    for kind, entries in (_tables(override) if override else {}).items():
        for model_id, table in entries.items():
            tables[kind][model_id] = {**tables[kind].get(model_id, {}), **table}
    source = override or _SHIPPED
    models = {key: _entry(ModelEntry, table, source) for key, table in tables["model"].items()}
    archives = {key: _entry(Archive, table, source) for key, table in tables["archive"].items()}
    catalogue = Catalogue(models, archives)
    _check_references(catalogue, source)
    return catalogue


def _tables(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise RylaError("invalid_catalogue", f"{path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RylaError("invalid_catalogue", f"{path} is not valid TOML: {error}") from error
    unknown = sorted(document.keys() - {"model", "archive"})
    if unknown:
        raise RylaError("invalid_catalogue", f"{path}: unknown table {unknown[0]!r} (model and archive are known).")
    return {kind: _by_id(document.get(kind, []), kind, path) for kind in ("model", "archive")}


def _by_id(entries: Any, kind: str, path: Path) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for table in entries if isinstance(entries, list) else [entries]:
        key = table.get("id") if isinstance(table, dict) else None
        if not isinstance(key, str) or key in tables:
            raise RylaError(
                "invalid_catalogue", f"{path}: a [[{kind}]] without id, or with the id of another: {key!r}."
            )
        tables[key] = table
    return tables


def _entry(cls: type[Any], table: dict[str, Any], path: Path) -> Any:
    values: dict[str, Any] = {}
    known = {field.name: field for field in fields(cls)}
    for key, value in table.items():
        if key not in known or not _fits(value, str(known[key].type)):
            raise RylaError("invalid_catalogue", f"{path}: {table['id']}: {key} = {value!r} is not allowed.")
        values[key] = tuple(value) if isinstance(value, list) else value
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if missing:
        raise RylaError("invalid_catalogue", f"{path}: {table['id']} lacks {', '.join(missing)}.")
    return cls(**values)


def _fits(value: Any, annotation: str) -> bool:
    if annotation.startswith("tuple"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    expected = {"str": str, "int": int, "bool": bool}[annotation.split(" ")[0]]
    return type(value) is expected


def _check_references(catalogue: Catalogue, path: Path) -> None:
    for entry in catalogue:
        named = [*entry.alternatives, *entry.includes, *entry.parts]
        lost = [name for name in named if name not in catalogue.models]
        if entry.archive and entry.archive not in catalogue.archives:
            lost.append(entry.archive)
        if entry.kind not in KINDS or entry.is_bundle != (entry.kind == BUNDLE):
            raise RylaError("invalid_catalogue", f"{path}: {entry.id}: kind {entry.kind!r} is unknown or does not fit.")
        if lost:
            raise RylaError("invalid_catalogue", f"{path}: {entry.id} names {lost[0]!r}, which is not there.")


def sources_of(entry: ModelEntry, catalogue: Catalogue) -> list[Source]:
    """The entry's repository, its mirrors, then those of alternatives with the very same bytes."""
    twins = [catalogue.get(name) for name in entry.alternatives]
    same = [entry, *(twin for twin in twins if twin.sha256 is not None and twin.sha256 == entry.sha256)]
    found: list[Source] = []
    for item in same:
        found += [HubSource(item.repo, item.path, item.revision, item.gated)] if item.repo else []
        found += [parse_source(mirror) for mirror in item.mirrors]
    return list(dict.fromkeys(found))


def sources_of_archive(archive: Archive) -> list[Source]:
    """The places of an archive."""
    return [parse_source(url) for url in archive.urls]


def parse_source(text: str) -> Source:
    """``hf://owner/repo[@revision]/path`` or a ``http(s)://`` URL.

    Raises:
        RylaError: ``invalid_catalogue``.
    """
    parts = urlsplit(text)
    if parts.scheme in ("http", "https") and parts.netloc:
        return UrlSource(text)
    names = text.removeprefix("hf://").split("/", 2)
    if parts.scheme != "hf" or len(names) != 3:
        raise RylaError("invalid_catalogue", f"{text!r} is neither hf://owner/repo/path nor a http(s) URL.")
    name, _, revision = names[1].partition("@")
    return HubSource(f"{names[0]}/{name}", names[2], revision or None)
