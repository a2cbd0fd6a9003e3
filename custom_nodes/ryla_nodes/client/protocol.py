"""What the runner asks of an engine, and what an engine says, parsed: the words that all of the client shares.

The job state machine does no I/O. It hands out one ``Action`` at a time; an ``Ask`` is carried out and its ``Answer``
fed back, and ``Signal``s of the websocket may be fed at any time in between.

Engines differ between versions and proxies mangle bodies, so nothing here trusts a shape: what cannot be read raises
``Malformed`` and counts as an answer that did not come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from ..errors import RylaError

JsonObject = Mapping[str, Any]

NONCE = "ryla_submit"
"""The key in ``extra_data``, which engines keep in queue and history, under which each submit has its own."""

_ENDINGS = ("execution_success", "execution_error", "execution_interrupted")
_KINDS = ("status", "execution_start", "execution_cached", "executing", "executed", "progress", "progress_state")


class Malformed(ValueError):
    """An answer that is not what the protocol says."""


# --- The websocket ----------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """How far a node is that counts its steps."""

    node: str
    done: float
    total: float


@dataclass(frozen=True)
class Event:
    """What one websocket message tells.

    Attributes:
        prompt_id: whose it is; None for broadcasts.
        terminal: whether it says that the job ended.
        cached: the nodes whose results come from the engine's cache.
        node: the node that begins.
        step: how far the running node is, when it counts.
    """

    prompt_id: str | None
    terminal: bool = False
    cached: tuple[str, ...] = ()
    node: str | None = None
    step: Step | None = None


@dataclass(frozen=True)
class Connection:
    """The websocket opened or closed."""

    open: bool


Signal = Event | Connection


def parse_event(frame: str | bytes) -> Event | None:
    """Read one text frame; None for types that do not matter and for frames that cannot be read."""
    try:
        message = json.loads(frame)
        kind, data = message["type"], message["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if kind not in (*_KINDS, *_ENDINGS) or not isinstance(data, dict):
        return None
    prompt_id, node = data.get("prompt_id"), data.get("node")
    begins = kind == "executing" and node is not None
    return Event(
        prompt_id if isinstance(prompt_id, str) else None,
        # "executing" without a node is ComfyUI's last word on a job.
        terminal=kind in _ENDINGS or (kind == "executing" and node is None),
        cached=_names(data.get("nodes")) if kind == "execution_cached" else (),
        node=str(node) if begins else None,
        step=_step(kind, data),
    )


def _step(kind: str, data: JsonObject) -> Step | None:
    node = data.get("node")
    if kind == "progress_state":
        # Newer engines tell of every node at once.
        nodes = data.get("nodes")
        listed = nodes.values() if isinstance(nodes, dict) else ()
        running = [node for node in listed if isinstance(node, dict) and node.get("state") == "running"]
        data = running[-1] if running else {}
        node = data.get("node_id")
    elif kind != "progress":
        return None
    done, total = data.get("value"), data.get("max")
    if not isinstance(done, int | float) or not isinstance(total, int | float) or total <= 1:
        return None
    return Step(str(node), done, total)


def _names(nodes: Any) -> tuple[str, ...]:
    return tuple(str(node) for node in nodes) if isinstance(nodes, list) else ()


# --- The queue and the history ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueView:
    """``/queue``: prompt ids that run, and those that wait in the order in which they will run."""

    running: tuple[str, ...]
    pending: tuple[str, ...]

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
    return QueueView(tuple(item[1] for item in running), tuple(item[1] for item in pending))


def _items(body: JsonObject, key: str) -> list[list[Any]]:
    items = body.get(key)
    if not isinstance(items, list):
        raise Malformed(f"the queue has no list {key}")
    for item in items:
        shaped = isinstance(item, list) and len(item) >= 2
        if not shaped or not isinstance(item[0], int | float) or not isinstance(item[1], str):
            raise Malformed(f"an entry of {key} has no number and id")
    return items


@dataclass(frozen=True)
class HistoryEntry:
    """``/history/{id}`` of a job that ended.

    Attributes:
        status: ``success``, ``error`` or None (some engines leave the status out).
        messages: (name, data) in order.
        outputs: node id -> what the node put out, as it came.
        executes: the output nodes that passed validation; None when the engine does not say.
        graph: what was run; None when the engine does not say.
        nonce: what its submit had beside the graph, under ``NONCE``; "" when the engine kept nothing.
    """

    status: str | None
    messages: tuple[tuple[str, JsonObject], ...]
    outputs: Mapping[str, JsonObject]
    executes: frozenset[str] | None = None
    graph: JsonObject | None = None
    nonce: str = ""

    def message(self, name: str) -> JsonObject | None:
        """The data of the last message called ``name``."""
        return next((data for kind, data in reversed(self.messages) if kind == name), None)

    @property
    def cached_nodes(self) -> tuple[str, ...]:
        """The nodes whose result came from the engine's cache."""
        return _names((self.message("execution_cached") or {}).get("nodes"))

    @property
    def execution_seconds(self) -> float | None:
        """The engine's own time from start to end, by its own clock; None when it does not say."""
        start = _timestamp(self.message("execution_start"))
        end = next((stamp for name in _ENDINGS if (stamp := _timestamp(self.message(name))) is not None), None)
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
    graph, nonce = _submitted(entry)
    return HistoryEntry(
        word if isinstance(word, str) else None, _messages(status), outputs, _executes(entry), graph, nonce
    )


def _submitted(entry: JsonObject) -> tuple[JsonObject | None, str]:
    """The graph and the nonce of an entry: ``prompt`` is (number, id, graph, extra_data, outputs)."""
    prompt = entry.get("prompt")
    parts = [*prompt, None, None, None, None][:4] if isinstance(prompt, list) else [None] * 4
    graph, extra = (part if isinstance(part, dict) else None for part in parts[2:])
    return graph, str((extra or {}).get(NONCE) or "")


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
    return frozenset(node for node in prompt[4] if isinstance(node, str))


# --- What is asked, and the answers -----------------------------------------------------------------------------------


class Ask(Enum):
    """What the state machine can ask of the engine."""

    SUBMIT = "POST the prompt: Accepted, Rejected, NotSent or Unclear"
    QUEUE = "GET /queue: QueueView or LookFailed"
    HISTORY = "GET /history/{id}: HistoryAnswer or LookFailed"
    CANCEL = "POST /api/jobs/{id}/cancel: CancelAnswer"
    DEQUEUE = "POST /queue with delete: CancelAnswer"
    INTERRUPT = "POST /interrupt for this id: CancelAnswer"
    LOG = "whether the engine's log tells that its worker thread died: LogAnswer"


@dataclass(frozen=True)
class Accepted:
    """The engine queued the prompt. ``node_errors``: nodes that failed its validation although it said 200."""

    node_errors: JsonObject


@dataclass(frozen=True)
class Rejected:
    """The engine refused the prompt: nothing was queued. ``movable``: another engine might take it."""

    error: RylaError
    movable: bool = False


@dataclass(frozen=True)
class NotSent:
    """No connection: the prompt provably never reached the engine."""

    why: str


@dataclass(frozen=True)
class Unclear:
    """The prompt was sent and no answer came back, or one that does not tell: it may be queued or not.

    ``error`` is what to report when it turns out not to be; None: then post it again.
    """

    why: str
    error: RylaError | None = None


@dataclass(frozen=True)
class HistoryAnswer:
    """The engine's record of the job; None while it has none."""

    entry: HistoryEntry | None


@dataclass(frozen=True)
class LookFailed:
    """A look brought nothing. ``absent``: no engine is there (anything else may be an engine that is busy)."""

    why: str
    absent: bool = False


class CancelAnswer(Enum):
    """How the engine answered a cancel, dequeue or interrupt."""

    DONE = "done"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


@dataclass(frozen=True)
class LogAnswer:
    """Whether the log says that the engine's worker thread died; False also when there is no log to read."""

    worker_died: bool


SubmitAnswer = Accepted | Rejected | NotSent | Unclear
Answer = SubmitAnswer | QueueView | HistoryAnswer | LookFailed | CancelAnswer | LogAnswer


@dataclass(frozen=True)
class Sleep:
    """Nothing to do before ``until`` (the driver's clock), unless a signal comes."""

    until: float


class State(str, Enum):
    """How a job ends. Exactly one of them, once."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt to run a job.

    Attributes:
        state: how it ended.
        error: why, for every state but ``succeeded``.
        entry: the engine's own record of it, when it has one.
        never_started: the job provably never ran on this engine, so that it may run on another.
        verified: the engine confirmed that nothing of the job goes on; False: it may still be running there.
        warnings: what the user should know of a success.
    """

    state: State
    error: RylaError | None = None
    entry: HistoryEntry | None = None
    never_started: bool = False
    verified: bool = True
    warnings: tuple[str, ...] = ()


Action = Ask | Sleep | Outcome
