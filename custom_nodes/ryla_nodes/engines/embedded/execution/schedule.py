"""Which node runs next."""

from __future__ import annotations

from collections.abc import Callable

from ...schema import io
from .cache import links
from .registry import Registry
from .validation import Graph


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
