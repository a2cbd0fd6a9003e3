"""A graph that is to run: its links, what of it is kept from the last job, and which node runs next."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ....workflows.links import is_link
from ...schema import io
from .registry import NodeClass, Registry

Graph = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """The outputs of a node (a list of values each) and what it reported for the history."""

    outputs: list[list[Any]]
    ui: Mapping[str, Any] | None


class OutputCache:
    """Keeps what the present job's graph may use and drops the rest when the next job begins."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._keys: Mapping[str, str] = {}

    def begin(self, keys: Mapping[str, str]) -> None:
        """Turn to a graph whose nodes have these signatures."""
        self._keys = keys
        used = set(keys.values())
        self._entries = {key: entry for key, entry in self._entries.items() if key in used}

    def get(self, node_id: str) -> Entry | None:
        """What is kept of a node; None also for one that the graph's outputs do not need."""
        return self._entries.get(self._keys.get(node_id, ""))

    def put(self, node_id: str, entry: Entry) -> None:
        self._entries[self._keys[node_id]] = entry

    def clear(self) -> None:
        self._entries.clear()


class Schedule:
    """Dependencies before those who need them, outputs as early as possible, lazy inputs only when asked for."""

    def __init__(self, graph: Graph, registry: Registry, is_cached: Callable[[str], bool]) -> None:
        self._graph = graph
        self._registry = registry
        self._is_cached = is_cached
        self._waits_for: dict[str, set[str]] = {}
        self._done: set[str] = set()

    def add(self, node_id: str) -> None:
        """Plan ``node_id`` and what it needs, nodes with cached outputs left out."""
        if node_id in self._waits_for or node_id in self._done:
            return
        self._waits_for[node_id] = set()
        lazy = self._lazy_inputs(node_id)
        # The last input's ancestors first, which is ComfyUI's order.
        for name, (source, _) in reversed(links(self._graph, self._registry, node_id).items()):
            if name not in lazy:
                self._need(node_id, source)

    def ask(self, node_id: str, name: str) -> None:
        """Let ``node_id`` wait for its lazy input ``name``."""
        self._need(node_id, links(self._graph, self._registry, node_id)[name][0])

    def next(self) -> str | None:
        """The node to run now; None when all is done."""
        ready = [node_id for node_id, needs in self._waits_for.items() if not needs]
        if not ready and self._waits_for:
            raise RuntimeError(f"Nodes {', '.join(self._waits_for)} wait for each other.")
        return min(ready, key=self._steps_to_output, default=None)

    def done(self, node_id: str) -> None:
        """``node_id`` has run: those that waited for it may."""
        del self._waits_for[node_id]
        self._done.add(node_id)
        for needs in self._waits_for.values():
            needs.discard(node_id)

    def _need(self, node_id: str, source: str) -> None:
        if source in self._done or self._is_cached(source):
            return
        self._waits_for[node_id].add(source)
        self.add(source)

    def _lazy_inputs(self, node_id: str) -> set[str]:
        return {item.id for item in self._schema(node_id).inputs or () if item.lazy}

    def _steps_to_output(self, node_id: str) -> int:
        """0 for an output, 1 for what feeds one, 2 for what feeds that, else 3: pictures appear early."""
        level = {node_id}
        for steps in range(3):
            if any(self._schema(each).is_output_node for each in level):
                return steps
            level = {each for each, needs in self._waits_for.items() if needs & level}
        return 3

    def _schema(self, node_id: str) -> io.Schema:
        return self._registry.schema(self._graph[node_id]["class_type"])


def signatures(graph: Graph, registry: Registry, outputs: Iterable[str]) -> dict[str, str]:
    """Signatures of ``outputs`` and their ancestors; nodes of equal signature have equal outputs.

    A signature covers the class, the constants, the node's fingerprint and the signatures of what its inputs link to.
    """
    found: dict[str, str] = {}

    def visit(node_id: str) -> str:
        if node_id not in found:
            found[node_id] = _digest(_own_part(node_id, graph[node_id], registry), links(graph, registry, node_id))
        return found[node_id]

    def _digest(own: list[Any], linked: Mapping[str, tuple[str, int]]) -> str:
        ancestors = {name: (visit(source), slot) for name, (source, slot) in sorted(linked.items())}
        return hashlib.sha256(json.dumps([own, ancestors], sort_keys=True).encode()).hexdigest()

    for output in outputs:
        visit(output)
    return found


def links(graph: Graph, registry: Registry, node_id: str) -> dict[str, tuple[str, int]]:
    """The links of a node's declared inputs: ``{input: (node id, slot)}``."""
    declared = registry.declared(graph[node_id]["class_type"])
    inputs = graph[node_id]["inputs"]
    return {name: (value[0], value[1]) for name, value in inputs.items() if name in declared and is_link(value)}


def _own_part(node_id: str, node: Mapping[str, Any], registry: Registry) -> list[Any]:
    cls = registry[node["class_type"]]
    declared = registry.declared(node["class_type"])
    inputs = {name: None if is_link(value) else value for name, value in node["inputs"].items() if name in declared}
    own = [node["class_type"], inputs, _fingerprint(cls, inputs)]
    return [*own, node_id] if registry.schema(node["class_type"]).not_idempotent else own


def _fingerprint(cls: NodeClass, inputs: Mapping[str, Any]) -> Any:
    """What the node's ``fingerprint_inputs`` says of its constants (links are None); a failure makes it run again."""
    if getattr(cls, "fingerprint_inputs", None) is None:
        return None
    try:
        return _comparable(cls.PREPARE_CLASS_CLONE(None).fingerprint_inputs(**inputs))
    except Exception as error:  # noqa: BLE001 - a node may raise anything
        log.warning("%s: its fingerprint failed, so it runs again: %s", cls.__name__, error)
        return uuid.uuid4().hex


def _comparable(value: Any) -> Any:
    """``value`` in a form that JSON can hold; what cannot be compared (NaN among it) is unlike everything."""
    if isinstance(value, float) and math.isnan(value):
        return uuid.uuid4().hex
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _comparable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable(each) for each in value]
    return uuid.uuid4().hex
