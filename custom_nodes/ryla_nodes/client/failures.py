"""From an engine's words to one failure of the registry. Pure: no I/O, and never a dump of a node's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import commands
from ..errors import RylaError, sentence
from ..files import MODEL_SUFFIXES
from ..workflows.graph import Graph
from ..workflows.workflow import Output
from .protocol import HistoryEntry, JsonObject

_OOM_TYPES = ("OutOfMemoryError", "OutOfMemoryException")
_OOM_WORDS = ("out of memory", "allocation on device")
_LONGEST = 1000
_NO_CLASS = ("does not exist", "missing the class_type")
"""How ComfyUI before 0.4 says it, under the type "invalid_prompt"; later ones have "missing_node_type"."""
_RAISED = ("exception_during_validation", "exception_during_inner_validation")
_ENDED = "Prompt executed in"
_HANDLED = "!!! Exception during processing !!!"
# ComfyUI keeps the last 300 pieces of its log, and a traceback is printed in many: its beginning may be gone.
_WORKER_FRAMES = re.compile(
    r"Exception in thread \S+ \(prompt_worker\)|, in prompt_worker\b"
    r'|execution\.py", line \d+, in (?:execute\w*|get_output_data|_async_map_node_over_list|process_inputs)\b'
)


@dataclass(frozen=True)
class Subject:
    """The job that a failure is about: what the messages name.

    Attributes:
        nonce: what the engine keeps beside the graph, to tell this submit from others under the same id; "" when an
            earlier process submitted it and did not say.
    """

    prompt_id: str
    server: str
    graph: Graph
    outputs: tuple[Output, ...]
    nonce: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """What every error tells a program of the job."""
        return {"server": self.server, "prompt_id": self.prompt_id}

    def node(self, node_id: object) -> str:
        """``"Title" (Class)`` of a node, as a person knows it."""
        # A node that was expanded from a subgraph is called "7:3": the user's node is the part before the colon.
        node = self.graph.get(str(node_id)) or self.graph.get(str(node_id).split(":")[0])
        if node is None:
            return f"node {node_id}"
        title = node.get("_meta", {}).get("title") or node["class_type"]
        return f'"{title}" ({node["class_type"]})'

    def nodes(self, outputs: list[Output]) -> str:
        return ", ".join(self.node(output.node_id) for output in outputs)


# --- A job that is in the history -------------------------------------------------------------------------------------


def of_entry(subject: Subject, entry: HistoryEntry) -> RylaError | None:
    """Why a job that is in the history did not succeed; None when it did.

    An interruption counts as somebody else's; the caller knows its own.
    """
    interrupted = entry.message("execution_interrupted")
    error = entry.message("execution_error")
    if interrupted is not None:
        return _interrupted(subject, interrupted)
    if error is not None or entry.status == "error":
        return _node_failed(subject, error or {})
    absent = [output for output in subject.outputs if output.node_id not in entry.outputs]
    return _no_output(subject, entry, absent) if absent else None


def _interrupted(subject: Subject, data: JsonObject) -> RylaError:
    node_id = data.get("node_id")
    message = f"Somebody else interrupted this job on {subject.server} at {subject.node(node_id)}."
    return RylaError("interrupted_elsewhere", message, node_id=node_id, **subject.facts)


def _node_failed(subject: Subject, data: JsonObject) -> RylaError:
    kind = str(data.get("exception_type") or "")
    text = str(data.get("exception_message") or "")
    cause = _first_line(text)
    where = subject.node(data["node_id"]) if "node_id" in data else "a node that the engine does not name"
    facts: dict[str, Any] = {
        **subject.facts,
        "node_id": data.get("node_id"),
        "node_class": data.get("node_type"),
        "exception_type": kind,
    }
    if kind.endswith(_OOM_TYPES) or any(word in text.casefold() for word in _OOM_WORDS):
        message = f"{where} ran out of GPU memory on {subject.server}: {cause or kind}"
        return RylaError("gpu_oom", sentence(message), **facts)
    own = [_at(error, f"{where} on {subject.server}", facts) for error in RylaError.parse_all(text)]
    if own:
        return _together(own)
    short = kind.rsplit(".", 1)[-1]
    told = f"{short}: {cause}" if short not in ("", "Exception") else cause or "no reason given"
    return RylaError("node_failed", sentence(f"{where} failed on {subject.server}: {told}"), **facts)


def _at(error: RylaError, where: str, facts: Mapping[str, Any]) -> RylaError:
    """A failure that a node of this package told the engine, with where it happened."""
    error.message = f"{where}: {error.message}"
    error.details.update(facts)
    return error


def _no_output(subject: Subject, entry: HistoryEntry, absent: list[Output]) -> RylaError:
    dropped = [o for o in absent if entry.executes is not None and o.node_id not in entry.executes]
    if dropped:
        return partial_validation(subject, {o.node_id: {} for o in dropped}, dropped)
    message = f"The job ended on {subject.server} but its output {subject.nodes(absent)} is not there."
    return RylaError("missing_output", message, nodes=[output.node_id for output in absent], **subject.facts)


# --- The answer to a submit -------------------------------------------------------------------------------------------


def partial_validation(subject: Subject, node_errors: JsonObject, dropped: list[Output]) -> RylaError:
    """The engine said 200 but will leave out outputs that the workflow declares."""
    own = [
        *_missing_models(subject, node_errors, subject.facts),
        *_words_of_our_nodes(subject, node_errors, subject.facts),
    ]
    if own:
        return _together(own)
    why = "; ".join(_reasons(subject, node_errors)) or "it does not say why"
    message = f"{subject.server} accepted the graph but leaves out its output {subject.nodes(dropped)}: {why}"
    nodes = [output.node_id for output in dropped]
    return RylaError("partial_validation", sentence(message), nodes=nodes, **subject.facts)


def dropped_outputs(subject: Subject, node_errors: JsonObject) -> list[Output]:
    """The declared outputs that a 200 with ``node_errors`` will not make."""
    lost = set(node_errors)
    for error in node_errors.values():
        dependent = error.get("dependent_outputs") if isinstance(error, dict) else None
        lost.update(str(node) for node in (dependent if isinstance(dependent, list) else ()))
    return [output for output in subject.outputs if output.node_id in lost]


def left_out(subject: Subject, node_errors: JsonObject) -> tuple[str, ...]:
    """A warning for each node that a 200 leaves out."""
    return tuple(f"{subject.server} leaves out {reason}" for reason in _reasons(subject, node_errors))


def refusal(subject: Subject, status: int, body: Any, retry_after: str = "") -> RylaError:
    """What an HTTP status says that means that nothing was queued, with its body (JSON or text)."""
    facts: dict[str, Any] = {**subject.facts, "status": status}
    if status == 400 and isinstance(body, dict):
        return _invalid(subject, body)
    if status == 413:
        return RylaError("request_too_large", f"{subject.server} refuses a request of this size (413).", **facts)
    if status in (401, 403, 407):
        message = f"{subject.server} refuses us (HTTP {status}): it wants a login, or takes us for a browser's page."
        return RylaError("engine_forbidden", message, **facts)
    if status == 429:
        after = f"; it asks to wait {retry_after} s" if retry_after else ""
        return RylaError("engine_busy", f"{subject.server} takes no more jobs now (429){after}.", **facts)
    if status in (404, 405):
        message = f"{subject.server} has no POST /prompt (HTTP {status}): it is not a ComfyUI."
        return RylaError("not_comfyui", message, **facts)
    why = _first_line(_text(body)) or "no reason given"
    return RylaError(
        "engine_error", sentence(f"{subject.server} answered the submit with HTTP {status}: {why}"), **facts
    )


def movable(error: RylaError) -> bool:
    """Whether another engine may take what this one refused: a login, a place in the queue, a node or a model."""
    return error.entry.exit_status == 3 or error.code in ("engine_forbidden", "engine_busy", "not_comfyui")


def _invalid(subject: Subject, body: JsonObject) -> RylaError:
    """ComfyUI's validation refused the graph."""
    error = body.get("error")
    error = error if isinstance(error, dict) else {"message": str(error or "")}
    node_errors = body.get("node_errors")
    node_errors = node_errors if isinstance(node_errors, dict) else {}
    kind, message, details = (str(error.get(key) or "") for key in ("type", "message", "details"))
    facts = {**subject.facts, "type": kind}
    if kind == "missing_node_type" or any(words in message for words in _NO_CLASS):
        # Both name it in the details: Node ID '#3'.
        where = subject.node(details.split("#")[-1].strip("'"))
        return RylaError("missing_node", sentence(f"{subject.server} has no node for {where}: {message}"), **facts)
    own = [*_missing_models(subject, node_errors, facts), *_words_of_our_nodes(subject, node_errors, facts)]
    if own:
        return _together(own)
    why = "; ".join(_reasons(subject, node_errors)) or f"{message} {details}".strip()
    return RylaError("rejected_input", sentence(f"{subject.server} refuses the graph: {_first_line(why)}"), **facts)


def _together(errors: list[RylaError]) -> RylaError:
    from ..models import missing  # Only when something failed.

    return missing.together(errors)


def _missing_models(subject: Subject, node_errors: JsonObject, facts: Mapping[str, Any]) -> list[RylaError]:
    """A failure for each file that is not in its node's list."""
    found = []
    for node_id, reason in _each_error(node_errors):
        info = reason.get("extra_info")
        info = info if isinstance(info, dict) else {}
        name = str(info.get("received_value"))
        if reason.get("type") == "value_not_in_list" and name.casefold().endswith(MODEL_SUFFIXES):
            from ..workflows import remedies

            message = f"{subject.server} has no file {name} for {subject.node(node_id)}."
            known, hint = remedies.for_model_file(name, str(info.get("input_name") or ""))
            found.append(RylaError("missing_model", message, hint=hint if known else "", file=name, **facts))
    return found


def _words_of_our_nodes(subject: Subject, node_errors: JsonObject, facts: Mapping[str, Any]) -> list[RylaError]:
    """What nodes of this package said when they checked their inputs, several things a node; with "model - " before it
    when it was told by returning it."""
    found = []
    for node_id, reason in _each_error(node_errors):
        words = str(reason.get("details") or "")
        if reason.get("type") == "custom_validation_failed":
            words = words.partition(" - ")[2]
        elif reason.get("type") not in _RAISED:
            continue
        for own in RylaError.parse_all(words):
            found.append(_at(own, f"{subject.node(node_id)} on {subject.server}", facts))
    return found


def _reasons(subject: Subject, node_errors: JsonObject) -> list[str]:
    """What each node of ``node_errors`` complains of."""
    told = []
    for node_id, reason in _each_error(node_errors):
        said = (commands.plain(str(reason.get(key) or "")) for key in ("message", "details"))
        message, details = map(_first_line, said)
        told.append(f"{subject.node(node_id)}: {message}" + (f" ({details})" if details else ""))
    return told


def _each_error(node_errors: JsonObject) -> list[tuple[str, JsonObject]]:
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
    """The first line that says something, of a readable length."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


# --- A job that the engine did not end --------------------------------------------------------------------------------


def unreachable(server: str, why: str) -> RylaError:
    """Nothing was sent: no connection."""
    return RylaError("engine_unreachable", f"No engine answers at {server}: {why}.", server=server, reason=why)


def never_arrived(subject: Subject, submits: int) -> RylaError:
    """The prompt was sent several times and never got into the queue."""
    message = f"{subject.server} was sent the job {submits} times, never answered, and does not have it."
    return RylaError("engine_error", message, **subject.facts)


def zombie(subject: Subject) -> RylaError:
    """The HTTP side of the engine lives, its worker does not."""
    message = f"{subject.server} answers, but its worker is dead: it takes jobs and runs none."
    return RylaError("zombie_worker", message, **subject.facts)


def worker_died(body: Any) -> bool:
    """Whether the JSON of ``/internal/logs/raw`` ends in the death of ComfyUI's worker thread.

    An exception that is not an ``Exception``, or one outside of a node, ends the thread that runs prompts; the HTTP
    server lives on and takes prompts for ever. Python then prints a traceback that ComfyUI did not log itself: no line
    about a processing error before it, and no "Prompt executed" after it.
    """
    entries = body.get("entries") if isinstance(body, Mapping) else None
    pieces = entries if isinstance(entries, list) else []
    log = "".join(str(piece.get("m", "")) for piece in pieces if isinstance(piece, Mapping))
    last = log.rpartition(_ENDED)[2]
    return _HANDLED not in last and _WORKER_FRAMES.search(last) is not None


FORGOTTEN = ("job_lost", "server_restarted")
"""The codes of ``lost``: the engine is there and has nothing of the job."""


def lost(subject: Subject, *, restarted: bool) -> RylaError:
    """The engine took the job and knows it no longer."""
    if restarted:
        message = f"{subject.server} restarted while it had this job, and no longer knows it."
        return RylaError("server_restarted", message, **subject.facts)
    message = (
        f"{subject.server} no longer knows this job, in queue or history: somebody removed it, cleared the history, "
        "or restarted the engine."
    )
    return RylaError("job_lost", message, **subject.facts)


def gone(subject: Subject, why: str, seconds: float) -> RylaError:
    """No engine has answered at the address for long."""
    message = f"{subject.server} went away with this job and has not come back for {seconds:.0f} s: {why}."
    return RylaError("server_gone", message, **subject.facts)


def cancelled(subject: Subject, verified: bool) -> RylaError:
    """Its user stopped it; ``verified`` when the engine confirmed that nothing of it goes on."""
    if verified:
        return RylaError("cancelled", f"Cancelled; {subject.server} has stopped it.", **subject.facts)
    message = f"Cancelled here, but {subject.server} did not confirm it: job {subject.prompt_id} may still be running."
    return RylaError("cancel_unverified", message, **subject.facts)


def timed_out(subject: Subject, seconds: float, ran: bool, verified: bool) -> RylaError:
    """It was not ready ``seconds`` after it had been given to the engine."""
    where = "while it ran" if ran else "before it started"
    after = "it was cancelled" if verified else f"{subject.server} did not confirm its cancellation"
    message = f"The job on {subject.server} passed its deadline of {seconds:.0f} s {where}; {after}."
    return RylaError("timed_out", message, seconds=seconds, verified=verified, **subject.facts)
