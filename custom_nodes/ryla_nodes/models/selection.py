"""Which files a list of model ids and workflow names means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import RylaError
from ..similar import similar
from .catalogue import Catalogue, ModelEntry
from .folders import ModelFolders
from .resolve import find_entry

Workflows = Mapping[str, Sequence[str]]


def select(
    names: Iterable[str], workflows: Workflows, catalogue: Catalogue, precision: str | None = None
) -> list[ModelEntry]:
    """The entries that ``names`` (model ids, or workflows with the ids that they need) stand for, each once.

    With ``precision`` a model that exists as fp16 and fp8 is taken in that form, and what an all-in-one file already
    includes is left out. Bundles stay bundles.

    Raises:
        RylaError: ``unknown_model`` with the nearest id or workflow.
    """
    ids = [model_id for name in names for model_id in _ids(name, workflows, catalogue)]
    chosen = dict.fromkeys(_in_precision(catalogue.get(model_id), catalogue, precision).id for model_id in ids)
    included = {part for model_id in chosen for part in catalogue.get(model_id).includes} if precision else set()
    return [catalogue.get(model_id) for model_id in chosen if model_id not in included]


def _ids(name: str, workflows: Workflows, catalogue: Catalogue) -> Sequence[str]:
    if name in workflows:
        return workflows[name]
    if name in catalogue.models:
        return (name,)
    near = list(similar(name, [*workflows, *catalogue.models], likeness=0.4))
    guess = f" Did you mean {near[0]!r}?" if near else ""
    raise RylaError(
        "unknown_model", f"{name!r} is neither a workflow nor a model of the catalogue.{guess}", nearest=near
    )


def _in_precision(entry: ModelEntry, catalogue: Catalogue, precision: str | None) -> ModelEntry:
    if precision is None or entry.precision in (None, precision):
        return entry
    others = (catalogue.get(name) for name in entry.alternatives)
    return next((other for other in others if other.precision == precision), entry)


def as_installed(entries: Iterable[ModelEntry], folders: ModelFolders, catalogue: Catalogue) -> list[ModelEntry]:
    """Each entry, or the alternative that is in its place; an absent one that a present file includes is left out."""
    there = {entry: stand_in(entry, folders, catalogue) for entry in entries}
    included = {part for found in there.values() if found for part in found.includes}
    return [found or entry for entry, found in there.items() if found or entry.id not in included]


def unmet(entries: Iterable[ModelEntry], folders: ModelFolders, catalogue: Catalogue) -> list[ModelEntry]:
    """The entries that nothing in ``folders`` stands in for: no alternative, and no file that includes them."""
    used = as_installed(entries, folders, catalogue)
    return [entry for entry in used if find_entry(entry, folders, catalogue) is None]


def stand_in(entry: ModelEntry, folders: ModelFolders, catalogue: Catalogue) -> ModelEntry | None:
    """The entry itself or its first alternative that is in ``folders``, or None."""
    candidates = (entry, *(catalogue.get(name) for name in entry.alternatives))
    return next((item for item in candidates if find_entry(item, folders, catalogue) is not None), None)


def files(entries: Iterable[ModelEntry], catalogue: Catalogue) -> list[ModelEntry]:
    """The single files behind ``entries``; of two entries with one target only the first."""
    parts = [part for entry in entries for part in catalogue.files(entry)]
    return list({(part.folder, part.filename): part for part in reversed(parts)}.values())[::-1]
