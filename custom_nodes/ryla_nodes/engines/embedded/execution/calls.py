"""Calling a node: its inputs mapped over lists, its outputs collected, its progress told, its cancellation heard."""

from __future__ import annotations

import math
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...schema import io

Values = dict[str, list[Any]]
Report = Callable[[float, float], None]

MOST_STATES_TOLD = 100


class Interrupted(Exception):
    """The running job was cancelled."""


@dataclass(frozen=True)
class RunningNode:
    """What the code of a node reaches of its job.

    Attributes:
        cancelled: set when the job was cancelled.
        report: takes the progress, as value and maximum.
        memo: room for what the nodes of one job work out once.
    """

    node_id: str
    cancelled: threading.Event
    report: Report
    memo: dict[str, Any]


_running: ContextVar[RunningNode] = ContextVar("ryla_running_node")


@contextmanager
def running(node: RunningNode) -> Iterator[None]:
    """Within this block, in this thread, ``node`` runs."""
    token = _running.set(node)
    try:
        yield
    finally:
        _running.reset(token)


def running_node() -> RunningNode | None:
    """The node that runs in this thread; None outside a job."""
    return _running.get(None)


def check_interrupt() -> None:
    """Raise ``Interrupted`` when the job that runs in this thread was cancelled; do nothing outside a job."""
    node = running_node()
    if node is not None and node.cancelled.is_set():
        raise Interrupted


@dataclass(frozen=True)
class Blocker:
    """Stands in an output for a value that will not come; nodes that get one do not run."""

    message: str | None


def call(
    method: Callable[..., Any], takes_lists: bool, inputs: Values, on_block: Callable[[Blocker], Blocker]
) -> list[Any]:
    """Call a node's method once for each element of its inputs.

    Args:
        takes_lists: whether the node is called once with all values, as lists.
        inputs: a list of values for each input; shorter ones repeat their last value.
        on_block: what to return for a call that has a blocked input.

    Returns:
        What each call returned, or a ``Blocker``.
    """
    results = []
    for arguments in _argument_sets(inputs, takes_lists):
        check_interrupt()
        blocked = _blocked(arguments)
        results.append(on_block(blocked) if blocked else method(**arguments))
    return results


def collect(results: Sequence[Any], schema: io.Schema) -> tuple[list[list[Any]], dict[str, list[Any]]]:
    """The outputs of a node (a list of values for each) and its ``ui``, from what its calls returned."""
    returned = [_normalized(result, schema) for result in results]
    outputs: list[list[Any]] = []
    for index, output in enumerate(schema.outputs or ()):
        values = [row[index] for row, _ in returned]
        if output.is_output_list:
            values = [each for value in values for each in ([value] if isinstance(value, Blocker) else value)]
        outputs.append(values)
    reports = [ui for _, ui in returned if ui]
    ui = {key: [item for report in reports for item in report[key]] for key in (reports[0] if reports else ())}
    return outputs, ui


def _argument_sets(inputs: Values, takes_lists: bool) -> list[dict[str, Any]]:
    if takes_lists or not inputs:
        return [dict(inputs)]
    longest = max(len(values) for values in inputs.values())
    return [{name: values[min(i, len(values) - 1)] for name, values in inputs.items()} for i in range(longest)]


def _blocked(arguments: Mapping[str, Any]) -> Blocker | None:
    for value in arguments.values():
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, Blocker):
                return each
    return None


def _normalized(result: Any, schema: io.Schema) -> tuple[Sequence[Any], Mapping[str, Any] | None]:
    """The values and the ``ui`` of one call's result."""
    wanted = len(schema.outputs or ())
    if isinstance(result, Blocker):
        return [result] * wanted, None
    if result is None or isinstance(result, tuple):
        result = io.NodeOutput(*(result or ()))
    if not isinstance(result, io.NodeOutput):
        raise TypeError(f"{schema.node_id} returned a {type(result).__name__} instead of io.NodeOutput.")
    if result.expand is not None:
        raise TypeError(f"{schema.node_id} wants to expand into a graph, which the embedded engine cannot do.")
    if result.block_execution is not None:
        return [Blocker(result.block_execution)] * wanted, result.ui
    if len(result.args) < wanted:
        raise TypeError(f"{schema.node_id} returned {len(result.args)} values for its {wanted} outputs.")
    return result.args, result.ui


class ProgressBar:
    """The progress of the running node; outside a job it reports to nobody.

    Each update is also the place where a cancelled job stops: it raises ``Interrupted``.
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self.current: float = 0

    def update_absolute(self, value: float, total: float | None = None) -> None:
        """Set the progress to ``value`` of ``total`` (the bar's own total when None); clipped to the total."""
        check_interrupt()
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        node = running_node()
        if node is not None:
            node.report(self.current, self.total)

    def update(self, steps: float = 1) -> None:
        """Advance by ``steps``."""
        self.update_absolute(self.current + steps)


class NodeStates:
    """The states of a job's nodes, told to its client as one ``progress_state`` message at each change.

    A message holds the nodes that changed last, so that it stays short however many there are.
    """

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
        self._nodes.pop(node_id, None)
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
        if len(self._nodes) > MOST_STATES_TOLD:
            del self._nodes[next(iter(self._nodes))]
        self._send("progress_state", {"prompt_id": self._prompt_id, "nodes": dict(self._nodes)})


Problem = dict[str, Any]

LONGEST_VALUE_TOLD = 1000
LONGEST_MESSAGE_TOLD = 10_000
MOST_FRAMES_TOLD = 50
OUT_OF_MEMORY = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have "
    "accidentally set the batch_size to a large number."
)


class Reporter:
    """Puts failures into words for clients, and takes the paths of this machine out of them.

    Args:
        names: what to call a folder; None lets every path stand, for an engine that only its own process asks.
    """

    def __init__(self, names: Mapping[Path, str] | None) -> None:
        self._names: list[tuple[str, str]] = []
        self._others: re.Pattern[str] | None = None
        if names is None:
            return
        spellings = {str(each): name for path, name in names.items() for each in (path.resolve(), path)}
        # The root folder itself is in every path.
        spellings = {path: name for path, name in spellings.items() if len(path) > len(Path(path).anchor)}
        self._names = sorted(spellings.items(), key=lambda item: -len(item[0]))
        self._others = _absolute_paths()

    def hide(self, text: str) -> str:
        """``text`` with known folders by their names, and of other absolute paths only the last part."""
        if self._others is None:
            return text
        for path, name in self._names:
            text = text.replace(path, name)
        return self._others.sub(lambda match: f".../{_last_part(match[0])}", text)

    def hide_in(self, value: Any) -> Any:
        """A JSON value with every string in it hidden."""
        if self._others is None:
            return value
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {key: self.hide_in(each) for key, each in value.items()}
        return [self.hide_in(each) for each in value] if isinstance(value, (list, tuple)) else value

    def text_of(self, error: BaseException) -> str:
        """What an exception says, even if it cannot say it."""
        try:
            text = str(error)
        except Exception:  # noqa: BLE001 - its own code may raise anything
            text = f"(its message cannot be read: {type(error).__name__})"
        return self.hide(text[:LONGEST_MESSAGE_TOLD])

    def told(self, value: Any) -> Any:
        """A value as an error message shows it: numbers and truth values as they are, the rest as a short text."""
        if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        return self.hide(str(value)[:LONGEST_VALUE_TOLD])

    def node_failure(self, error: BaseException, inputs: Values) -> dict[str, Any]:
        """The part of an ``execution_error`` that an exception and the inputs of its node give."""
        advice = OUT_OF_MEMORY if is_out_of_memory(error) else ""
        return {
            "exception_type": full_type_name(type(error)),
            "traceback": _frames(error),
            "exception_message": f"{self.text_of(error)}\n{advice}",
            "current_inputs": {name: [self.told(value) for value in values] for name, values in inputs.items()},
        }


def problem_of(kind: str, message: str, details: str, **extra_info: Any) -> Problem:
    """One error of the validation."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def blocked_failure(message: str) -> Mapping[str, Any]:
    """The same part for a node that does not run because a value of it was blocked."""
    return {
        "exception_message": f"Execution Blocked: {message}",
        "exception_type": "ExecutionBlocked",
        "traceback": [],
        "current_inputs": [],
        "current_outputs": [],
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory ran out; known by the name, since torch may not be loaded."""
    return type(error).__name__ == "OutOfMemoryError"


def full_type_name(kind: type[BaseException]) -> str:
    """``torch.OutOfMemoryError``, ``ValueError``: the name under which clients know an exception."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def shown(value: Any) -> Any:
    """A value that a client sent, cut where it is long: an answer is no larger than what it is about."""
    text = str(value)
    return value if len(text) <= LONGEST_VALUE_TOLD else f"{text[:LONGEST_VALUE_TOLD]}..."


def _frames(error: BaseException) -> list[str]:
    """Where an exception was raised, by module and function: a file's path says where this machine keeps it."""
    frames = [
        (frame.f_globals.get("__name__", "?"), line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return [f"  {module}, line {line}, in {name}\n" for module, line, name in frames[-MOST_FRAMES_TOLD:]]


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _absolute_paths() -> re.Pattern[str]:
    """Matches an absolute path that can be one of this machine: below a folder that its root has."""
    tops = "|".join(re.escape(top.name) for top in Path(os.sep).iterdir())
    return re.compile(rf"(?<![\w.$~/])/(?:{tops})/[^\s'\"`:,;)\]]*|(?<!\w)[A-Za-z]:\\[^\s'\"`:,;)\]]+")
