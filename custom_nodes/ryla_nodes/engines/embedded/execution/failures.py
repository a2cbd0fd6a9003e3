"""What clients are told of a failure, in ComfyUI's shapes: never a path of this machine."""

from __future__ import annotations

import math
import os
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .calls import Values

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
