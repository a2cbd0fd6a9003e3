"""All that a graph lacks on this machine, in one list with one command: what the editor shows before a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from .. import commands, settings
from ..errors import RylaError
from ..models import catalogue, selection
from ..models.catalogue import Catalogue, ModelEntry
from ..models.folders import ModelFolders
from . import manifest, remedies
from .graph import title_of


@dataclass(frozen=True)
class Lack:
    """A model of the catalogue that is missing.

    Attributes:
        what: its title. file: its folder and name. searched: the paths where it may lie.
        size: bytes, None where unknown. licence_url: where the licence stands, and is accepted for a gated model.
        nodes: titles of the nodes that want it.
    """

    id: str
    what: str
    file: str
    searched: tuple[str, ...]
    size: int | None
    licence: str
    licence_url: str
    gated: bool
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """Anything else that an engine has against a node: in words, with what to do."""

    message: str
    hint: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What an engine has against a graph; ``commands`` mend it, one after the other, as they stand."""

    models: list[Lack]
    faults: list[Fault]
    commands: list[str]

    def told(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def report(graph: Mapping[str, Any], node_errors: Mapping[str, Any], folders: ModelFolders) -> Report | None:
    """What ComfyUI's ``node_errors`` of a graph in API format say; None when no node of ours and no model is concerned.

    A model counts once, however many nodes want it. Faults of other nodes are told, too: they would come next.
    """
    made = _Made(folders, catalogue.load())
    for title, reason in _reasons(graph, node_errors):
        made.add(title, reason)
    return made.report() if made.ours else None


def absent(errors: Iterable[RylaError], folders: ModelFolders) -> list[ModelEntry]:
    """The models of the catalogue that some errors name as missing, each once."""
    known = catalogue.load()
    return list(dict.fromkeys(entry for error in errors for entry in _entries(error, folders, known)))


class _Made:
    """A report on its way: titles of nodes by the id of a model, and by the words of a fault."""

    def __init__(self, folders: ModelFolders, known: Catalogue) -> None:
        self.folders, self.known = folders, known
        self.models: dict[str, list[str]] = {}
        self.faults: dict[tuple[str, str], list[str]] = {}
        self.first: list[str] = []
        self.ours = False

    def add(self, title: str, reason: Mapping[str, Any]) -> None:
        errors = RylaError.parse_all(str(reason.get("details") or "")) or _missing_file(reason)
        self.ours = self.ours or bool(errors)
        for error in errors:
            self._add(title, error)
        if not errors:
            self.faults.setdefault((_words(reason), ""), []).append(title)

    def _add(self, title: str, error: RylaError) -> None:
        entries = _entries(error, self.folders, self.known)
        for entry in entries:
            self.models.setdefault(entry.id, []).append(title)
        rest = _without_install(error.hint) if entries else error.hint
        if error.code == "insightface_missing":
            self.first.append(rest)
            rest = ""
        if rest or not entries:
            self.faults.setdefault((error.message, rest), []).append(title)

    def report(self) -> Report:
        models = [self._lack(self.known.get(model), titles) for model, titles in self.models.items()]
        faults = [Fault(message, commands.spelled(hint), _each(at)) for (message, hint), at in self.faults.items()]
        install = [commands.spelled(commands.install(list(self.models)))] if models else []
        return Report(models, faults, [*dict.fromkeys(self.first), *install])

    def _lack(self, entry: ModelEntry, titles: Iterable[str]) -> Lack:
        sizes = [part.size for part in self.known.files(entry)]
        return Lack(
            entry.id,
            entry.title,
            f"{entry.folder}/{entry.filename}",
            tuple(map(str, self.folders.get(entry.folder))),
            sum(filter(None, sizes)) or None,
            entry.license,
            entry.license_url,
            entry.gated,
            _each(titles),
        )


def _reasons(graph: Mapping[str, Any], node_errors: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every error with the title of its node, in the graph's order."""
    for node_id, node in graph.items():
        for reason in node_errors.get(node_id, {}).get("errors", ()):
            yield title_of(node), reason


def _missing_file(reason: Mapping[str, Any]) -> list[RylaError]:
    """A model file that is not in the list of a loader, of whatever pack."""
    info = reason.get("extra_info") or {}
    name, input_name = str(info.get("received_value")), str(info.get("input_name"))
    if reason.get("type") != "value_not_in_list" or not remedies.is_model_file(name):
        return []
    _, hint = remedies.for_model_file(name, input_name)
    return [RylaError("missing_model", f"{input_name}: {name} is not there.", hint=hint)]


def _words(reason: Mapping[str, Any]) -> str:
    told = str(reason.get("details") or "").partition(" - ")[2]
    if reason.get("type") == "custom_validation_failed" and told:
        return told
    return ": ".join(str(reason[key]) for key in ("message", "details") if reason.get(key))


def _entries(error: RylaError, folders: ModelFolders, known: Catalogue) -> list[ModelEntry]:
    """The models that an error names and that its command would bring."""
    try:
        names = commands.installs(error.hint)
        here = settings.load()
        needs = {name: manifest.load(name, here).models for name in names if name not in known.models}
        absent = selection.unmet(selection.select(names, needs, known), folders, known)
    except RylaError:
        return []
    return [entry for entry in absent if PurePosixPath(entry.filename).name in error.message]


def _without_install(hint: str) -> str:
    """What else a hint says beside its command."""
    names = commands.installs(hint)
    return hint.replace(commands.install(names), "").removesuffix("; then: ").strip()


def _each(titles: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(titles))
