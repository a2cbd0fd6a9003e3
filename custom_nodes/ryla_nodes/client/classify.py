"""From an engine's words to one failure of the registry. Pure: no I/O, and never a dump of a node's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RylaError
from ..templates.schema import Graph, Output
from .actions import Rejected, State
from .wire import HistoryEntry, JsonObject

_OOM_TYPES = ("OutOfMemoryError", "OutOfMemoryException")
_OOM_WORDS = ("out of memory", "allocation on device")
_MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
_MISSING_NODE = ("missing_node_type",)
_MISSING_NODE_WORDS = ("does not exist", "not found", "has no class_type", "missing the class_type")


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
    cause, _, hint = _first_line(text).partition(" Next: ")
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
        return RylaError("gpu_oom", _sentence(message), **facts)
    short = kind.rsplit(".", 1)[-1]
    told = f"{short}: {cause}" if short not in ("", "RylaError", "Exception") else cause or "no reason given"
    return RylaError("node_failed", _sentence(f"{where} failed on {subject.server}: {told}"), hint=hint, **facts)


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
    why = "; ".join(_reasons(subject, node_errors)) or "it does not say why"
    return RylaError(
        "partial_validation",
        _sentence(f"{subject.server} accepted the graph but leaves out its output {names}: {why}"),
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
    return tuple(f"{subject.server} leaves out {reason}" for reason in _reasons(subject, node_errors))


def rejected(subject: Subject, status: int, body: Any, retry_after: str = "") -> Rejected:
    """The refusal of a submit: an HTTP status that says that nothing was queued, and its body (JSON or text)."""
    facts: dict[str, Any] = {"prompt_id": subject.prompt_id, "server": subject.server, "status": status}
    if status == 400 and isinstance(body, dict):
        return Rejected(_invalid(subject, body))
    if status == 413:
        message = f"{subject.server} refuses a request of this size (413)."
        return Rejected(RylaError("request_too_large", message, **facts))
    if status in (401, 403, 407):
        message = f"{subject.server} refuses us (HTTP {status}): it wants a login, or takes us for a browser's page."
        return Rejected(RylaError("engine_forbidden", message, **facts), movable=True)
    if status == 429:
        after = f"; it asks to wait {retry_after} s" if retry_after else ""
        return Rejected(
            RylaError("engine_busy", f"{subject.server} takes no more jobs now (429){after}.", **facts), True
        )
    if status in (404, 405):
        message = f"{subject.server} has no POST /prompt (HTTP {status}): it is not a ComfyUI."
        return Rejected(RylaError("not_comfyui", message, **facts), movable=True)
    message = (
        f"{subject.server} answered the submit with HTTP {status}: {_first_line(_text(body)) or 'no reason given'}"
    )
    return Rejected(RylaError("engine_error", _sentence(message), **facts))


def _invalid(subject: Subject, body: JsonObject) -> RylaError:
    error = body.get("error")
    error = error if isinstance(error, dict) else {"message": str(error or "")}
    node_errors = body.get("node_errors")
    node_errors = node_errors if isinstance(node_errors, dict) else {}
    kind, message = str(error.get("type") or ""), str(error.get("message") or "")
    facts = {"prompt_id": subject.prompt_id, "server": subject.server, "type": kind}
    absent_class = kind == "invalid_prompt" and any(word in message for word in _MISSING_NODE_WORDS)
    if kind in _MISSING_NODE or absent_class:
        info = error.get("extra_info")
        node_id = (info if isinstance(info, dict) else {}).get("node_id") or str(error.get("details", "")).split("#")[
            -1
        ]
        where = subject.node(node_id.strip("'"))
        return RylaError("missing_node", f"{subject.server} has no node for {where}: {message}", **facts)
    model = _missing_model(node_errors)
    if model is not None:
        node_id, name = model
        message = f"{subject.server} has no file {name} for {subject.node(node_id)}."
        return RylaError("missing_model", message, file=name, **facts)
    why = "; ".join(_reasons(subject, node_errors)) or " ".join(
        filter(None, (message, str(error.get("details") or "")))
    )
    return RylaError("rejected_input", _sentence(f"{subject.server} refuses the graph: {_first_line(why)}"), **facts)


def _missing_model(node_errors: Mapping[str, Any]) -> tuple[str, str] | None:
    for node_id, reason in _each_error(node_errors):
        info = reason.get("extra_info")
        received = (info if isinstance(info, dict) else {}).get("received_value")
        if reason.get("type") == "value_not_in_list" and str(received).casefold().endswith(_MODEL_SUFFIXES):
            return node_id, str(received)
    return None


def _reasons(subject: Subject, node_errors: Mapping[str, Any]) -> list[str]:
    told = []
    for node_id, reason in _each_error(node_errors):
        message, details = (_first_line(str(reason.get(key) or "")) for key in ("message", "details"))
        told.append(f"{subject.node(node_id)}: {message}" + (f" ({details})" if details else ""))
    return told


def _each_error(node_errors: Mapping[str, Any]) -> list[tuple[str, JsonObject]]:
    return [
        (node_id, reason)
        for node_id, error in node_errors.items()
        if isinstance(error, dict) and isinstance(error.get("errors"), list)
        for reason in error["errors"]
        if isinstance(reason, dict)
    ]


def _text(body: Any) -> str:
    if isinstance(body, dict):
        return str(body.get("error") or body.get("message") or body.get("detail") or "")
    return str(body or "")


def _first_line(text: str) -> str:
    """The first line that says something, at most 300 characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 300 else f"{line[:297]}..."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
