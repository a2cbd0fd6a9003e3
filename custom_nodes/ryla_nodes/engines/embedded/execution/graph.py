"""A graph that is to run: its links, what of it is kept from the last job, and which node runs next."""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ....errors import RylaError
from ....workflows.graph import is_link
from .registry import NodeClass, Registry

Graph = dict[str, Any]

FARTHEST = 3
"""Steps to the next output; nodes as far as this or farther run in the order in which they were planned."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """The outputs of a node (a list of values each) and what it reported for the history."""

    outputs: list[list[Any]]
    ui: Mapping[str, Any] | None


class OutputCache:
    """Keeps what the present job's graph may use and drops the rest when the next job begins.

    Args:
        limit: how many bytes of pictures and latents it may hold in the machine's memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[str, Entry] = {}
        self._keys: Mapping[str, str] = {}
        self._held: set[int] = set()
        self._bytes = 0

    def begin(self, keys: Mapping[str, str]) -> None:
        """Turn to a graph whose nodes have these signatures."""
        self._keys = keys
        used = set(keys.values())
        self._entries = {key: entry for key, entry in self._entries.items() if key in used}
        self._held.clear()
        self._bytes = 0
        for entry in self._entries.values():
            self._count(entry)

    def get(self, node_id: str) -> Entry | None:
        """What is kept of a node; None also for one that the graph's outputs do not need."""
        return self._entries.get(self._keys.get(node_id, ""))

    def put(self, node_id: str, entry: Entry) -> None:
        """Keep the outputs of a node.

        Raises:
            RylaError: ``graph_too_large``, and nothing is kept any more.
        """
        self._entries[self._keys[node_id]] = entry
        self._count(entry)
        if self._bytes > self._limit:
            self.clear()
            gigabytes = f"{self._limit / 1e9:.1f} GB"
            raise RylaError("graph_too_large", f"The pictures of this graph take more than {gigabytes} together.")

    def clear(self) -> None:
        self._entries.clear()
        self._held.clear()
        self._bytes = 0

    def _count(self, entry: Entry) -> None:
        for place, size in _sizes(entry.outputs):
            if place not in self._held:
                self._held.add(place)
                self._bytes += size


def _sizes(outputs: list[list[Any]]) -> Iterator[tuple[int, int]]:
    """The tensors of a node in the machine's memory: where each lies and its bytes; what is passed on lies once."""
    for value in (each for values in outputs for each in values):
        for tensor in value.values() if isinstance(value, dict) else (value,):
            if hasattr(tensor, "untyped_storage") and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                yield storage.data_ptr(), storage.nbytes()


class Schedule:
    """Dependencies before those who need them, outputs as early as possible, lazy inputs only when asked for.

    Each step takes about constant time: a node knows who waits for it and how far it is from an output.
    """

    def __init__(self, graph: Graph, registry: Registry, is_cached: Callable[[str], bool]) -> None:
        self._graph = graph
        self._registry = registry
        self._is_cached = is_cached
        self._order: dict[str, int] = {}
        self._needs: dict[str, set[str]] = {}
        self._waiting: dict[str, list[str]] = {}
        self._steps: dict[str, int] = {}
        self._ready: list[tuple[int, int, str]] = []
        self._done: set[str] = set()

    def add(self, node_id: str) -> None:
        """Plan ``node_id`` and what it needs, nodes with cached outputs left out."""
        stack = [self._plan(node_id)]
        while stack:
            source = next(stack[-1], None)
            if source is None:
                stack.pop()
            else:
                stack.append(self._plan(source))

    def ask(self, node_id: str, name: str) -> None:
        """Let ``node_id`` wait for its lazy input ``name``."""
        source = links(self._graph, self._registry, node_id)[name][0]
        if self._need(node_id, source):
            self.add(source)
        elif not self._needs[node_id]:
            self._make_ready(node_id)

    def next(self) -> str | None:
        """The node to run now; None when all is done."""
        while self._ready:
            steps, _, node_id = heapq.heappop(self._ready)
            if node_id in self._needs and not self._needs[node_id] and steps == self._steps[node_id]:
                return node_id
        if self._needs:
            raise RuntimeError(f"{len(self._needs)} nodes wait for each other, such as {next(iter(self._needs))}.")
        return None

    def done(self, node_id: str) -> None:
        """``node_id`` has run: those that waited for it may."""
        del self._needs[node_id]
        self._done.add(node_id)
        for waiting in self._waiting.pop(node_id, ()):
            needs = self._needs[waiting]
            needs.discard(node_id)
            if not needs:
                self._make_ready(waiting)

    def _plan(self, node_id: str) -> Iterator[str]:
        """Plan one node; gives the sources that have to be planned next, each when the one before is planned whole."""
        if node_id in self._order:
            return
        self._order[node_id] = len(self._order)
        declaration = self._registry.declaration(self._graph[node_id]["class_type"])
        self._come_near(node_id, 0 if declaration.schema.is_output_node else FARTHEST)
        self._needs[node_id] = set()
        # The last input's ancestors first, which is ComfyUI's order.
        for name, (source, _) in reversed(links(self._graph, self._registry, node_id).items()):
            if name not in declaration.lazy and self._need(node_id, source):
                yield source
        if not self._needs[node_id]:
            self._make_ready(node_id)

    def _need(self, node_id: str, source: str) -> bool:
        """Let ``node_id`` wait for ``source``, unless that is there already; whether it has to wait."""
        if source in self._done or self._is_cached(source):
            return False
        if source not in self._needs[node_id]:
            self._needs[node_id].add(source)
            self._waiting.setdefault(source, []).append(node_id)
        self._come_near(source, self._steps[node_id] + 1)
        return True

    def _come_near(self, node_id: str, steps: int) -> None:
        """Note that ``node_id`` is at most ``steps`` from an output (0: it is one): pictures appear early."""
        near = [(node_id, steps)]
        while near:
            node_id, steps = near.pop()
            if min(steps, FARTHEST) >= self._steps.get(node_id, FARTHEST + 1):
                continue
            self._steps[node_id] = min(steps, FARTHEST)
            if node_id in self._needs:
                near += [(source, steps + 1) for source in self._needs[node_id]]
                if not self._needs[node_id]:
                    self._make_ready(node_id)

    def _make_ready(self, node_id: str) -> None:
        heapq.heappush(self._ready, (self._steps[node_id], self._order[node_id], node_id))


def signatures(graph: Graph, registry: Registry, outputs: Iterable[str]) -> dict[str, str]:
    """Signatures of ``outputs`` and their ancestors; nodes of equal signature have equal outputs.

    A signature covers the class, the constants, the node's fingerprint and the signatures of what its inputs link to.
    """
    found: dict[str, str] = {}
    pending = list(outputs)
    while pending:
        node_id = pending[-1]
        linked = {} if node_id in found else links(graph, registry, node_id)
        missing = [source for source, _ in linked.values() if source not in found]
        if missing:
            pending += missing
            continue
        pending.pop()
        if node_id not in found:
            ancestors = {name: (found[source], slot) for name, (source, slot) in sorted(linked.items())}
            own = _own_part(node_id, graph[node_id], registry)
            found[node_id] = hashlib.sha256(json.dumps([own, ancestors], sort_keys=True).encode()).hexdigest()
    return found


def links(graph: Graph, registry: Registry, node_id: str) -> dict[str, tuple[str, int]]:
    """The links of a node's declared inputs: ``{input: (node id, slot)}``."""
    declared = registry.declaration(graph[node_id]["class_type"]).inputs
    inputs = graph[node_id]["inputs"]
    return {name: (value[0], value[1]) for name, value in inputs.items() if name in declared and is_link(value)}


def _own_part(node_id: str, node: Mapping[str, Any], registry: Registry) -> list[Any]:
    cls = registry[node["class_type"]]
    declaration = registry.declaration(node["class_type"])
    inputs = {
        name: None if is_link(value) else value for name, value in node["inputs"].items() if name in declaration.inputs
    }
    own = [node["class_type"], inputs, _fingerprint(cls, inputs)]
    return [*own, node_id] if declaration.schema.not_idempotent else own


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
