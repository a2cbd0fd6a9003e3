"""Progress of the node that runs now, as its sampler reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .. import interrupt

Report = Callable[[float, float], None]

_report: ContextVar[Report | None] = ContextVar("ryla_progress", default=None)


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Within this block, in this thread, ``ProgressBar`` calls ``report(value, maximum)``."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


class ProgressBar:
    """The progress of the running node; outside a job it reports to nobody.

    Each update is also the place where a cancelled job stops: it raises ``Interrupted``.
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self.current: float = 0

    def update_absolute(self, value: float, total: float | None = None) -> None:
        """Set the progress to ``value`` of ``total`` (the bar's own total when None); clipped to the total."""
        interrupt.check()
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        report = _report.get()
        if report is not None:
            report(self.current, self.total)

    def update(self, steps: float = 1) -> None:
        """Advance by ``steps``."""
        self.update_absolute(self.current + steps)


class NodeStates:
    """The states of a job's nodes, told to its client as one ``progress_state`` message at each change."""

    def __init__(self, prompt_id: str, send: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._prompt_id = prompt_id
        self._send = send
        self._nodes: dict[str, dict[str, Any]] = {}

    def start(self, node_id: str) -> None:
        self._set(node_id, "running", 0, 1)

    def update(self, node_id: str, value: float, maximum: float) -> None:
        self._set(node_id, "running", value, maximum)

    def finish(self, node_id: str) -> None:
        maximum = self._nodes[node_id]["max"] if node_id in self._nodes else 1
        self._set(node_id, "finished", maximum, maximum)

    def _set(self, node_id: str, state: str, value: float, maximum: float) -> None:
        self._nodes[node_id] = {
            "value": value,
            "max": maximum,
            "state": state,
            "node_id": node_id,
            "prompt_id": self._prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }
        self._send("progress_state", {"prompt_id": self._prompt_id, "nodes": dict(self._nodes)})
