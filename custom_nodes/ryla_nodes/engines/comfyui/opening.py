"""What a graph that is opened lacks of the catalogue, for the editor's own list of missing models."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import RylaError, RylaErrors
from ...models import catalogue, editor_files
from ...models.catalogue import ModelEntry
from ...workflows import lacking
from ..schema import io
from . import folders


def report(nodes: Iterable[Mapping[str, Any]], models: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The files that nodes of ours lack, found as a run would find them: with a variant there, none is missing.

    Args:
        nodes: ``type`` and ``values``, those of the widgets in their order.
        models: the list of models that the graph brings, each with ``name`` and ``directory``.

    Returns:
        ``files``: for each node those that it lacks. ``models``: the graph's list, corrected: what is missing and can
        be offered by every editor, and what is not of the catalogue.
    """
    known = catalogue.load()
    absent = [_absent(node) for node in nodes]
    others = [model for model in models if not _is_ours(model)]
    missing = dict.fromkeys(entry for entries in absent for entry in entries)
    return {
        "files": [list(editor_files.files(entries)) for entries in absent],
        "models": [*others, *editor_files.offered(part for entry in missing for part in known.files(entry))],
    }


def _absent(node: Mapping[str, Any]) -> list[ModelEntry]:
    kind: Any = sys.modules["nodes"].NODE_CLASS_MAPPINGS.get(node.get("type"))
    if not str(node.get("type")).startswith("RYLA_") or "validate_inputs" not in vars(kind or object):
        return []  # Of another pack, or it needs no file.
    try:
        kind.validate_inputs(**_checked(kind, node.get("values")))
    except RylaError as error:
        return lacking.absent([error], folders.current())
    except RylaErrors as several:
        return lacking.absent(several.errors, folders.current())
    return []


def _checked(kind: type[io.ComfyNode], values: Any) -> dict[str, Any]:
    """Those of a node's values that it checks, by name; as many as were saved."""
    names = [each.id for each in kind.define_schema().inputs or () if isinstance(each, io.WidgetInput)]
    given = dict(zip(names, values if isinstance(values, Sequence) else (), strict=False))
    asked = inspect.signature(kind.validate_inputs).parameters
    return {name: value for name, value in given.items() if name in asked and isinstance(value, str)}


def _is_ours(model: Mapping[str, Any]) -> bool:
    return catalogue.load().named(str(model.get("name")), str(model.get("directory"))) is not None
