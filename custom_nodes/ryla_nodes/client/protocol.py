"""What an engine says, parsed: websocket frames, ``/queue`` and ``/history/{id}``.

Engines differ between versions and proxies mangle bodies, so nothing here trusts a shape: what cannot be read raises
``Malformed`` and counts as an answer that did not come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

JsonObject = Mapping[str, Any]


class Malformed(ValueError):
    """An answer that is not what the protocol says."""


class EventKind(Enum):
    """The websocket messages that matter; every other type is ignored."""

    STATUS = "status"
    START = "execution_start"
    CACHED = "execution_cached"
    NODE = "executing"
    PROGRESS = "progress"
    PROGRESS_STATE = "progress_state"
    EXECUTED = "executed"
    SUCCESS = "execution_success"
    ERROR = "execution_error"
    INTERRUPTED = "execution_interrupted"


_KINDS = {kind.value: kind for kind in EventKind}
_TERMINAL = (EventKind.SUCCESS, EventKind.ERROR, EventKind.INTERRUPTED)


@dataclass(frozen=True)
class Event:
    """One websocket message. ``prompt_id`` is None for broadcasts."""

    kind: EventKind
    prompt_id: str | None
    data: JsonObject

    @property
    def terminal(self) -> bool:
        """Whether it says that a job ended. ``executing`` with no node is ComfyUI's last word on a job."""
        return self.kind in _TERMINAL or (self.kind is EventKind.NODE and self.data.get("node") is None)

    @property
    def step(self) -> tuple[str, float, float] | None:
        """(node id, steps done, steps in all) of the node that counts its steps; None when it tells of none."""
        data: Any = self.data
        if self.kind is EventKind.PROGRESS_STATE:
            # Newer engines tell of every node at once.
            nodes = data.get("nodes")
            listed = nodes.values() if isinstance(nodes, dict) else ()
            running = [node for node in listed if isinstance(node, dict) and node.get("state") == "running"]
            data = {**running[-1], "node": running[-1].get("node_id")} if running else {}
        elif self.kind is not EventKind.PROGRESS:
            return None
        value, total = data.get("value"), data.get("max")
        if not isinstance(value, int | float) or not isinstance(total, int | float) or total <= 1:
            return None
        return str(data.get("node")), value, total


def parse_event(frame: str | bytes) -> Event | None:
    """Read one frame; None for previews, for types that do not matter and for frames that cannot be read."""
    if isinstance(frame, bytes):
        return None
    try:
        message = json.loads(frame)
    except ValueError:
        return None
    if not isinstance(message, dict):
        return None
    kind = _KINDS.get(str(message.get("type")))
    data = message.get("data")
    if kind is None or not isinstance(data, dict):
        return None
    prompt_id = data.get("prompt_id")
    return Event(kind, prompt_id if isinstance(prompt_id, str) else None, data)


@dataclass(frozen=True)
class QueueView:
    """``/queue``: prompt ids that run, and those that wait in the order in which they will run.

    ``executes`` maps each id to the output nodes that passed the engine's validation.
    """

    running: tuple[str, ...]
    pending: tuple[str, ...]
    executes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def count(self, prompt_id: str) -> int:
        """How many times the engine holds this id: 2 after a submit that arrived twice."""
        return self.running.count(prompt_id) + self.pending.count(prompt_id)


def parse_queue(body: Any) -> QueueView:
    """Read the JSON of ``GET /queue``. ComfyUI's pending list is a heap, so it is sorted by its number.

    Raises:
        Malformed: not the JSON of a queue.
    """
    if not isinstance(body, dict):
        raise Malformed("the queue is not an object")
    running = _items(body, "queue_running")
    pending = sorted(_items(body, "queue_pending"), key=lambda item: item[0])
    executes = {item[1]: _outputs_to_execute(item) for item in (*running, *pending)}
    return QueueView(tuple(item[1] for item in running), tuple(item[1] for item in pending), executes)


def _items(body: JsonObject, key: str) -> list[list[Any]]:
    items = body.get(key)
    if not isinstance(items, list):
        raise Malformed(f"the queue has no list {key}")
    for item in items:
        shaped = isinstance(item, list) and len(item) >= 2
        if not shaped or not isinstance(item[0], int | float) or not isinstance(item[1], str):
            raise Malformed(f"an entry of {key} has no number and id")
    return items


def _outputs_to_execute(item: list[Any]) -> frozenset[str]:
    nodes = item[4] if len(item) > 4 and isinstance(item[4], list) else []
    return frozenset(node for node in nodes if isinstance(node, str))


@dataclass(frozen=True)
class HistoryEntry:
    """``/history/{id}`` of a job that ended.

    Attributes:
        status: ``success``, ``error`` or None (some engines leave the status out).
        messages: (name, data) in order.
        outputs: node id -> what the node put out, as it came.
        executes: the output nodes that passed validation; None when the engine does not say.
    """

    status: str | None
    messages: tuple[tuple[str, JsonObject], ...]
    outputs: Mapping[str, JsonObject]
    executes: frozenset[str] | None = None

    def message(self, name: str) -> JsonObject | None:
        """The data of the last message called ``name``."""
        return next((data for kind, data in reversed(self.messages) if kind == name), None)

    @property
    def cached_nodes(self) -> tuple[str, ...]:
        """The nodes whose result came from the engine's cache."""
        nodes = (self.message("execution_cached") or {}).get("nodes")
        return tuple(str(node) for node in nodes) if isinstance(nodes, list) else ()

    @property
    def execution_seconds(self) -> float | None:
        """The engine's own time from start to end, by its own clock; None when it does not say."""
        start = _timestamp(self.message("execution_start"))
        ends = ("execution_success", "execution_error", "execution_interrupted")
        end = next((stamp for stamp in (_timestamp(self.message(name)) for name in ends) if stamp is not None), None)
        return None if start is None or end is None else max(0.0, (end - start) / 1000)


def _timestamp(data: JsonObject | None) -> float | None:
    stamp = (data or {}).get("timestamp")
    return float(stamp) if isinstance(stamp, int | float) else None


def parse_history(body: Any, prompt_id: str) -> HistoryEntry | None:
    """Read the JSON of ``GET /history/{prompt_id}``; None when the job is not in it.

    Raises:
        Malformed: not the JSON of a history.
    """
    if not isinstance(body, dict):
        raise Malformed("the history is not an object")
    entry = body.get(prompt_id)
    if entry is None:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("outputs", {}), dict):
        raise Malformed("the history entry is not an object with outputs")
    status = entry.get("status") or {}
    if not isinstance(status, dict):
        raise Malformed("the history entry's status is not an object")
    word = status.get("status_str")
    outputs = {node: out for node, out in entry.get("outputs", {}).items() if isinstance(out, dict)}
    return HistoryEntry(word if isinstance(word, str) else None, _messages(status), outputs, _executes(entry))


def _messages(status: JsonObject) -> tuple[tuple[str, JsonObject], ...]:
    raw = status.get("messages")
    pairs = raw if isinstance(raw, list) else []
    return tuple(
        (str(pair[0]), pair[1])
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], dict)
    )


def _executes(entry: JsonObject) -> frozenset[str] | None:
    prompt = entry.get("prompt")
    if not isinstance(prompt, list) or len(prompt) < 5 or not isinstance(prompt[4], list):
        return None
    return _outputs_to_execute(prompt)
