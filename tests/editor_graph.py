"""API graphs compared as the editor makes them: a node of a subgraph is called ``<subgraph>:<node>`` there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ryla_nodes.workflows.graph import is_link, title_of


def essence(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Class, inputs and title of each node by its own id, whatever subgraph it is in."""
    return {
        _own(key): (node["class_type"], {name: _value(value) for name, value in node["inputs"].items()}, title_of(node))
        for key, node in graph.items()
    }


def _own(key: str) -> str:
    return key.rpartition(":")[2]


def _value(value: Any) -> Any:
    return [_own(str(value[0])), value[1]] if is_link(value) else value
