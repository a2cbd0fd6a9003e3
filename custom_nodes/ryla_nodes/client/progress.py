"""What the user sees of a job while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from ..workflows.schema import Graph
from .protocol import Event, EventKind
from .state_machine import JobMachine


class Phase(Enum):
    """The part of its life that a job is in."""

    PREPARING = "preparing"
    QUEUED = "queued"
    RUNNING = "running"
    FETCHING = "fetching"


@dataclass(frozen=True)
class Progress:
    """A snapshot.

    Attributes:
        ahead: how many jobs are before this one in the engine's queue; None when unknown.
        node: title (or class) of the node that runs.
        step, steps: the node's own count, as (12, 20); (0, 0) when it counts nothing.
        nodes_done, nodes_total: how far the graph is.
    """

    phase: Phase
    server: str = ""
    prompt_id: str = ""
    ahead: int | None = None
    node: str = ""
    step: int = 0
    steps: int = 0
    nodes_done: int = 0
    nodes_total: int = 0


OnProgress = Callable[[Progress], None]


class Tracker:
    """Turns events and the machine's state into snapshots, and reports those that differ from the last."""

    def __init__(self, graph: Graph, server: str, prompt_id: str, report: OnProgress) -> None:
        self._graph, self._report = graph, report
        self._done: set[str] = set()
        self._current: str | None = None
        self._shown = Progress(Phase.PREPARING, server, prompt_id, nodes_total=len(graph))

    def event(self, event: Event) -> None:
        """Take a websocket event of this job."""
        data = event.data
        if event.kind is EventKind.CACHED and isinstance(data.get("nodes"), list):
            self._done.update(str(node) for node in data["nodes"])
        elif event.kind is EventKind.NODE and data.get("node") is not None:
            self._begin(str(data["node"]))
        elif event.step is not None:
            _, value, total = event.step
            self._show(replace(self._shown, step=int(value), steps=int(total)))

    def state(self, machine: JobMachine) -> None:
        """Take what the machine knows."""
        if machine.running:
            self._show(replace(self._shown, phase=Phase.RUNNING, ahead=None))
        elif machine.position is not None:
            self._show(replace(self._shown, phase=Phase.QUEUED, ahead=machine.position))

    def phase(self, phase: Phase) -> None:
        """Say which part begins."""
        self._show(replace(self._shown, phase=phase))

    def _begin(self, node_id: str) -> None:
        if self._current is not None:
            self._done.add(self._current)
        self._current = node_id
        node = self._graph.get(node_id, {})
        title = node.get("_meta", {}).get("title") or node.get("class_type") or node_id
        done = len(self._done & self._graph.keys())
        self._show(replace(self._shown, phase=Phase.RUNNING, node=title, step=0, steps=0, nodes_done=done))

    def _show(self, progress: Progress) -> None:
        if progress != self._shown:
            self._shown = progress
            self._report(progress)
