"""Which models an engine lacks, told from the file names that it lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from .catalogue import Catalogue, ModelEntry


def forms(entry: ModelEntry, catalogue: Catalogue) -> tuple[ModelEntry, ...]:
    """A model and what may stand in its place."""
    return (entry, *map(catalogue.get, entry.alternatives))


def folders(entries: Iterable[ModelEntry], catalogue: Catalogue) -> tuple[str, ...]:
    """The folders whose listing tells whether these models are there."""
    return tuple(dict.fromkeys(form.folder for entry in entries for form in forms(entry, catalogue)))


def missing(entries: Sequence[ModelEntry], listed: Mapping[str, Any], catalogue: Catalogue) -> list[str]:
    """The ids of the models that are not there, in any form.

    Args:
        listed: folder -> the names that the engine lists in it.
    """
    there = {entry.id: _listed_form(entry, listed, catalogue) for entry in entries}
    included = {part for form in there.values() if form for part in form.includes}
    return [model_id for model_id, form in there.items() if form is None and model_id not in included]


def _listed_form(entry: ModelEntry, listed: Mapping[str, Any], catalogue: Catalogue) -> ModelEntry | None:
    there = forms(entry, catalogue)
    return next((form for form in there if all(_is_listed(part, listed) for part in _needed(form, catalogue))), None)


def _needed(entry: ModelEntry, catalogue: Catalogue) -> list[ModelEntry]:
    return [part for part in catalogue.files(entry) if not part.optional]


def _is_listed(entry: ModelEntry, listed: Mapping[str, Any]) -> bool:
    names = listed.get(entry.folder)
    base = PurePosixPath(entry.filename).name
    if not isinstance(names, list | tuple):
        return False
    if "/" in entry.filename and entry.folder == "controlnet":
        return any("instantid" in str(name).lower() or str(name).endswith(entry.filename) for name in names)
    return any(str(name).replace("\\", "/").rsplit("/", 1)[-1] == base for name in names)
