"""A graph in ComfyUI's API format: read from its file, its nodes' titles, its links followed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import RylaError

Graph = dict[str, dict[str, Any]]
"""API format: node id -> ``{"class_type", "inputs", "_meta"}``."""


def read_graph(path: Path) -> Graph:
    """Read a graph in API format.

    Raises:
        RylaError: ``invalid_workflow``: no such file, not JSON, or not API format (the editor's own format is named).
    """
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RylaError("invalid_workflow", f"The graph {path} cannot be read: {error}", path=str(path)) from error
    except json.JSONDecodeError as error:
        raise RylaError("invalid_workflow", f"The graph {path} is not JSON: {error}", path=str(path)) from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise RylaError(
            "invalid_workflow",
            f"The graph {path} is in the editor's format, not in API format.",
            hint="In ComfyUI's editor: Workflow > Export (API)",
            path=str(path),
        )
    if not isinstance(graph, dict) or not graph:
        raise RylaError("invalid_workflow", f"The graph {path} is not an object of nodes.", path=str(path))
    for node_id, node in graph.items():
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            raise RylaError(
                "invalid_workflow",
                f'The graph {path} is not in API format: "{node_id}" is not a node.',
                hint="Take top-level metadata out: every key of an API graph is a node id",
                path=str(path),
            )
    return graph


def title_of(node: Mapping[str, Any]) -> str:
    """A node's title: ``_meta.title``, else its class."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return str(title or node.get("class_type") or "")


def is_link(value: object) -> bool:
    """Whether an input's value is a link, ``[node id, output number]``."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def inputs_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node's inputs by name; empty where a hand-written graph has something else there."""
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def links(node: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """The links of a node by input: the id of the node that each comes from, and the number of its output."""
    return {name: (value[0], value[1]) for name, value in inputs_of(node).items() if is_link(value)}


def sources(node: Mapping[str, Any]) -> Iterator[str]:
    """The ids of the nodes that ``node`` is linked to."""
    return (source for source, _ in links(node).values())


def reachable(nodes: Mapping[str, Mapping[str, Any]], outputs: Iterable[str]) -> set[str]:
    """``outputs`` and every node that one of them needs."""
    seen: set[str] = set()
    pending = list(outputs)
    while pending:
        key = pending.pop()
        if key not in seen and key in nodes:
            seen.add(key)
            pending.extend(sources(nodes[key]))
    return seen


def find_cycle(nodes: Mapping[str, Mapping[str, Any]], among: Iterable[str]) -> list[str]:
    """The node ids of one dependency cycle among ``among``, each needing the next; empty when there is none."""
    done: set[str] = set()
    for start in among:
        path: list[str] = []
        pending: list[Iterator[str]] = [iter([start])]
        while pending:
            key = next(pending[-1], None)
            if key is None:
                pending.pop()
                if path:
                    done.add(path.pop())
            elif key in path:
                return path[path.index(key) :]
            elif key not in done and key in nodes:
                path.append(key)
                pending.append(sources(nodes[key]))
    return []
