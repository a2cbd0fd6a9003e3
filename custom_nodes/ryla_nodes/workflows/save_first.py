"""Graphs of before: a picture is saved before it is scored, in whatever order the editor stored the two."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from .graph import is_link

_SAVE, _SCORE = "RYLA_SaveImage", "RYLA_FaceSimilarity"


def save_first(graph: Any, targets: Container[str] | None = None) -> Any:
    """``graph`` with each score taking its picture from the node that saves it: none is lost when a score fails.

    Engines run what nothing depends on in an order of chance. Anything else is left as it is, what is no graph, too.

    Args:
        targets: the only output nodes that shall run; None: all.
    """
    if not isinstance(graph, dict):
        return graph
    saves = {_source(node, "images"): key for key, node in graph.items() if _is(node, _SAVE)}
    saves.pop(None, None)
    wanted = {source: key for source, key in saves.items() if targets is None or key in targets}
    return {key: _scored(node, wanted) if _is(node, _SCORE) else node for key, node in graph.items()}


def _scored(node: dict[str, Any], saves: dict[tuple[Any, ...] | None, str]) -> dict[str, Any]:
    save = saves.get(_source(node, "image"))
    return node if save is None else {**node, "inputs": {**node["inputs"], "image": [save, 0]}}


def _is(node: Any, kind: str) -> bool:
    return isinstance(node, dict) and node.get("class_type") == kind and isinstance(node.get("inputs"), dict)


def _source(node: dict[str, Any], name: str) -> tuple[Any, ...] | None:
    value = node["inputs"].get(name)
    return tuple(value) if is_link(value) else None
