"""What clients are told of a failure, in ComfyUI's shapes."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from .calls import Values

Problem = dict[str, Any]

LONGEST_VALUE_TOLD = 1000
OUT_OF_MEMORY = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have "
    "accidentally set the batch_size to a large number."
)


def problem_of(kind: str, message: str, details: str, **extra_info: Any) -> Problem:
    """One error of the validation."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def exception_facts(error: BaseException) -> dict[str, Any]:
    """The type of an exception, as clients know it, and where it was raised."""
    return {"exception_type": full_type_name(type(error)), "traceback": traceback.format_tb(error.__traceback__)}


def node_failure(error: BaseException, inputs: Values) -> dict[str, Any]:
    """The part of an ``execution_error`` that an exception and the inputs of its node give."""
    advice = OUT_OF_MEMORY if is_out_of_memory(error) else ""
    return {
        **exception_facts(error),
        "exception_message": f"{text_of(error)}\n{advice}",
        "current_inputs": {name: [_told(value) for value in values] for name, values in inputs.items()},
    }


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


def text_of(error: BaseException) -> str:
    """What an exception says, even if it cannot say it."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - its own code may raise anything
        return f"(its message cannot be read: {type(error).__name__})"


def _told(value: Any) -> Any:
    """A value as an error message shows it."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)[:LONGEST_VALUE_TOLD]
