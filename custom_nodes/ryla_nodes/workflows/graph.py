"""The links of a graph in API format, followed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


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


def sources(node: Mapping[str, Any]) -> Iterator[str]:
    """The ids of the nodes that ``node`` is linked to."""
    for value in inputs_of(node).values():
        if is_link(value):
            yield value[0]


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
