"""A graph in ComfyUI's API format: read from its file, its nodes' titles, its links followed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import RylaError
from ..files import read_text

Graph = dict[str, dict[str, Any]]
"""API format: node id -> ``{"class_type", "inputs", "_meta"}``."""

_FORMAT = "Give node ids with their nodes, as ComfyUI's editor exports them: Workflow > Export (API)"

_METADATA = "Take top-level metadata out: every key of an API graph is a node id"


def read_graph(path: Path) -> Graph:
    """Read a graph in API format.

    Raises:
        RylaError: ``invalid_workflow``: no such file, not JSON, or not API format (the editor's own format is named).
    """
    try:
        graph: Graph = json.loads(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RylaError("invalid_workflow", f"The graph {path} cannot be read: {error}", path=str(path)) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise RylaError("invalid_workflow", f"The graph {path} is not JSON: {error}", path=str(path)) from error
    fault = _fault(graph)
    if fault is not None:
        message, hint = fault
        raise RylaError("invalid_workflow", f"The graph {path} {message}.", hint=hint, path=str(path))
    return graph


def checked(graph: Graph) -> Graph:
    """A graph that a program made, when it is one.

    Raises:
        RylaError: ``invalid_graph``: not in API format, or with values that JSON does not have.
    """
    fault = _fault(graph)
    if fault is not None:
        message, hint = fault
        raise RylaError("invalid_graph", f"The graph {message}.", hint=hint)
    return graph


def _fault(graph: Any) -> tuple[str, str] | None:
    """Why something is no graph in API format, and what to do; None when it is one."""
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        return "is in the editor's format, not in API format", "In ComfyUI's editor: Workflow > Export (API)"
    if not isinstance(graph, dict) or not graph:
        return "is not an object of nodes", _FORMAT
    for key, node in graph.items():
        if not isinstance(key, str):
            return f"has the node id {key!r}, which is no text", _FORMAT
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            wrapped = isinstance(node, dict) and key == "prompt"
            hint = (
                "Give what is in it"
                if wrapped
                else "Take top-level metadata out: every key of an API graph is a node id"
            )
            return f'is not in API format: "{key}" is not a node', hint
        why = _unsayable(node)
        if why:
            return f'has something in node "{key}" that JSON does not have: {why}', "Give numbers, texts and lists."
    return None


def _unsayable(node: Mapping[str, Any]) -> str:
    """Why a node cannot be sent; "" when it can."""
    try:
        json.dumps(node, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half of a character (a lone surrogate)"
    except RecursionError:
        return "a structure that is too deep"
    except (TypeError, ValueError) as error:
        return "NaN or infinity" if "float" in str(error) else str(error)
    return ""


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
