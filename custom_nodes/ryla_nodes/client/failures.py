"""From an engine's words to one failure of the registry. Pure: no I/O, and never a dump of a node's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RylaError
from ..workflows.schema import Graph, Output
from ..workflows.wording import sentence
from .actions import State
from .protocol import HistoryEntry, JsonObject

_OOM_TYPES = ("OutOfMemoryError", "OutOfMemoryException")
_OOM_WORDS = ("out of memory", "allocation on device")
_LONGEST = 1000


@dataclass(frozen=True)
class Subject:
    """The job that a failure is about: what the messages name."""

    prompt_id: str
    server: str
    graph: Graph
    outputs: tuple[Output, ...]

    def node(self, node_id: object) -> str:
        """``"Title" (Class)`` of a node, as a person knows it."""
        # A node that was expanded from a subgraph is called "7:3": the user's node is the part before the colon.
        node = self.graph.get(str(node_id)) or self.graph.get(str(node_id).split(":")[0])
        if node is None:
            return f"node {node_id}"
        title = node.get("_meta", {}).get("title") or node["class_type"]
        return f'"{title}" ({node["class_type"]})'


def finished(subject: Subject, entry: HistoryEntry) -> tuple[State, RylaError | None]:
    """How a job that is in the history ended. An interruption counts as somebody else's; the caller knows its own."""
    interrupted = entry.message("execution_interrupted")
    error = entry.message("execution_error")
    if interrupted is not None:
        return State.FAILED, _interrupted(subject, interrupted)
    if error is not None or entry.status == "error":
        return State.FAILED, _node_failed(subject, error or {})
    absent = [output for output in subject.outputs if output.node_id not in entry.outputs]
    if absent:
        return State.FAILED, _no_output(subject, entry, absent)
    return State.SUCCEEDED, None


def _interrupted(subject: Subject, data: JsonObject) -> RylaError:
    return RylaError(
        "interrupted_elsewhere",
        f"Somebody else interrupted this job on {subject.server} at {subject.node(data.get('node_id'))}.",
        prompt_id=subject.prompt_id,
        server=subject.server,
        node_id=data.get("node_id"),
    )


def _node_failed(subject: Subject, data: JsonObject) -> RylaError:
    kind = str(data.get("exception_type") or "")
    text = str(data.get("exception_message") or "")
    cause = first_line(text)
    where = subject.node(data["node_id"]) if "node_id" in data else "a node that the engine does not name"
    facts: dict[str, Any] = {
        "prompt_id": subject.prompt_id,
        "server": subject.server,
        "node_id": data.get("node_id"),
        "node_class": data.get("node_type"),
        "exception_type": kind,
    }
    if kind.endswith(_OOM_TYPES) or any(word in text.casefold() for word in _OOM_WORDS):
        message = f"{where} ran out of GPU memory on {subject.server}: {cause or kind}"
        return RylaError("gpu_oom", sentence(message), **facts)
    own = of_our_node(cause, f"{where} on {subject.server}", facts)
    if own is not None:
        return own
    short = kind.rsplit(".", 1)[-1]
    told = f"{short}: {cause}" if short not in ("", "Exception") else cause or "no reason given"
    return RylaError("node_failed", sentence(f"{where} failed on {subject.server}: {told}"), **facts)


def of_our_node(words: str, where: str, facts: Mapping[str, Any]) -> RylaError | None:
    """The failure that a node of this package told the engine, with where it happened; None for other words."""
    error = RylaError.parse(words)
    if error is not None:
        error.message = f"{where}: {error.message}"
        error.details.update(facts)
    return error


def _no_output(subject: Subject, entry: HistoryEntry, absent: list[Output]) -> RylaError:
    dropped = [o for o in absent if entry.executes is not None and o.node_id not in entry.executes]
    if dropped:
        return partial_validation(subject, {o.node_id: {} for o in dropped}, dropped)
    names = ", ".join(subject.node(output.node_id) for output in absent)
    return RylaError(
        "missing_output",
        f"The job ended on {subject.server} but its output {names} is not there.",
        prompt_id=subject.prompt_id,
        server=subject.server,
        nodes=[output.node_id for output in absent],
    )


def partial_validation(subject: Subject, node_errors: Mapping[str, Any], dropped: list[Output]) -> RylaError:
    """The engine said 200 but will leave out outputs that the workflow declares."""
    names = ", ".join(subject.node(output.node_id) for output in dropped)
    why = "; ".join(reasons(subject, node_errors)) or "it does not say why"
    return RylaError(
        "partial_validation",
        sentence(f"{subject.server} accepted the graph but leaves out its output {names}: {why}"),
        prompt_id=subject.prompt_id,
        server=subject.server,
        nodes=[output.node_id for output in dropped],
    )


def dropped_outputs(subject: Subject, node_errors: Mapping[str, Any]) -> list[Output]:
    """The declared outputs that a 200 with ``node_errors`` will not make."""
    lost = set(node_errors)
    for error in node_errors.values():
        dependent = error.get("dependent_outputs") if isinstance(error, dict) else None
        lost.update(str(node) for node in (dependent if isinstance(dependent, list) else ()))
    return [output for output in subject.outputs if output.node_id in lost]


def left_out(subject: Subject, node_errors: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning for each node that a 200 leaves out."""
    return tuple(f"{subject.server} leaves out {reason}" for reason in reasons(subject, node_errors))


def reasons(subject: Subject, node_errors: Mapping[str, Any]) -> list[str]:
    """What each node of ``node_errors`` complains of."""
    told = []
    for node_id, reason in each_error(node_errors):
        message, details = (first_line(str(reason.get(key) or "")) for key in ("message", "details"))
        told.append(f"{subject.node(node_id)}: {message}" + (f" ({details})" if details else ""))
    return told


def each_error(node_errors: Mapping[str, Any]) -> list[tuple[str, JsonObject]]:
    return [
        (node_id, reason)
        for node_id, error in node_errors.items()
        if isinstance(error, dict) and isinstance(error.get("errors"), list)
        for reason in error["errors"]
        if isinstance(reason, dict)
    ]


def first_line(text: str) -> str:
    """The first line that says something, of a readable length."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
