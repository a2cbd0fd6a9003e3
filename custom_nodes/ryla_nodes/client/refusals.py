"""From the refusal of a submit to one failure of the registry. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RylaError
from ..workflows.wording import sentence
from .actions import Rejected
from .failures import Subject, each_error, first_line, of_our_node, reasons
from .protocol import JsonObject

_MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
_NO_CLASS = ("does not exist", "missing the class_type")
"""How ComfyUI before 0.4 says it, under the type "invalid_prompt"; later ones have "missing_node_type"."""


def rejected(subject: Subject, status: int, body: Any, retry_after: str = "") -> Rejected:
    """An HTTP status that says that nothing was queued, and its body (JSON or text)."""
    facts: dict[str, Any] = {"prompt_id": subject.prompt_id, "server": subject.server, "status": status}
    if status == 400 and isinstance(body, dict):
        error = _invalid(subject, body)
        # What one engine lacks another may have.
        return Rejected(error, movable=error.entry.exit_status == 3)
    if status == 413:
        message = f"{subject.server} refuses a request of this size (413)."
        return Rejected(RylaError("request_too_large", message, **facts))
    if status in (401, 403, 407):
        message = f"{subject.server} refuses us (HTTP {status}): it wants a login, or takes us for a browser's page."
        return Rejected(RylaError("engine_forbidden", message, **facts), movable=True)
    if status == 429:
        after = f"; it asks to wait {retry_after} s" if retry_after else ""
        message = f"{subject.server} takes no more jobs now (429){after}."
        return Rejected(RylaError("engine_busy", message, **facts), movable=True)
    if status in (404, 405):
        message = f"{subject.server} has no POST /prompt (HTTP {status}): it is not a ComfyUI."
        return Rejected(RylaError("not_comfyui", message, **facts), movable=True)
    why = first_line(_text(body)) or "no reason given"
    message = f"{subject.server} answered the submit with HTTP {status}: {why}"
    return Rejected(RylaError("engine_error", sentence(message), **facts))


def _invalid(subject: Subject, body: JsonObject) -> RylaError:
    """ComfyUI's validation refused the graph."""
    error = body.get("error")
    error = error if isinstance(error, dict) else {"message": str(error or "")}
    node_errors = body.get("node_errors")
    node_errors = node_errors if isinstance(node_errors, dict) else {}
    kind, message, details = (str(error.get(key) or "") for key in ("type", "message", "details"))
    facts = {"prompt_id": subject.prompt_id, "server": subject.server, "type": kind}
    if kind == "missing_node_type" or any(words in message for words in _NO_CLASS):
        # Both name it in the details: Node ID '#3'.
        where = subject.node(details.split("#")[-1].strip("'"))
        return RylaError("missing_node", sentence(f"{subject.server} has no node for {where}: {message}"), **facts)
    found = _missing_model(node_errors)
    if found is not None:
        node_id, name = found
        message = f"{subject.server} has no file {name} for {subject.node(node_id)}."
        return RylaError("missing_model", message, file=name, **facts)
    own = _words_of_our_node(subject, node_errors, facts)
    if own is not None:
        return own
    why = "; ".join(reasons(subject, node_errors)) or f"{message} {details}".strip()
    return RylaError("rejected_input", sentence(f"{subject.server} refuses the graph: {first_line(why)}"), **facts)


def _missing_model(node_errors: Mapping[str, Any]) -> tuple[str, str] | None:
    """The node and the file that is not in its list."""
    for node_id, reason in each_error(node_errors):
        info = reason.get("extra_info")
        received = (info if isinstance(info, dict) else {}).get("received_value")
        if reason.get("type") == "value_not_in_list" and str(received).casefold().endswith(_MODEL_SUFFIXES):
            return node_id, str(received)
    return None


def _words_of_our_node(subject: Subject, node_errors: Mapping[str, Any], facts: Mapping[str, Any]) -> RylaError | None:
    """What a node of this package said when it checked its inputs: "model - WORDS" in the details."""
    for node_id, reason in each_error(node_errors):
        if reason.get("type") == "custom_validation_failed":
            words = str(reason.get("details") or "").partition(" - ")[2]
            own = of_our_node(first_line(words), f"{subject.node(node_id)} on {subject.server}", facts)
            if own is not None:
                return own
    return None


def _text(body: Any) -> str:
    if isinstance(body, dict):
        return str(body.get("error") or body.get("message") or body.get("detail") or "")
    return str(body or "")
