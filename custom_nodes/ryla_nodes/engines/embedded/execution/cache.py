"""Outputs of nodes kept from one job to the next, by everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .inputs import is_link
from .registry import NodeClass, Registry
from .validation import Graph

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
