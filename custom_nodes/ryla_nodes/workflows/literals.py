"""A value that stands at an input, against what the node class declares for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import remedies
from .object_info import InputSpec
from .wording import nearest


@dataclass(frozen=True)
class LiteralProblem:
    """What is wrong with a value; ``message`` goes on from 'input "x" ...'."""

    code: str
    message: str
    hint: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def literal_problem(spec: InputSpec, value: Any) -> LiteralProblem | None:
    """What an engine or the node itself would hold against ``value``, None when nothing."""
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    if not spec.takes_literal:
        return LiteralProblem("wrong_type", f"takes a link to a {spec.type}, not the value {value!r}")
    if spec.type == "COMBO":
        return _combo(spec, value)
    converter = _CONVERTERS.get(spec.type)
    if converter is None:
        return None
    converted = converter(value)
    if converted is None:
        return LiteralProblem("wrong_type", f"takes {spec.type}, not {value!r}")
    return _range(spec, converted) if isinstance(converted, int | float) else None


def _range(spec: InputSpec, value: int | float) -> LiteralProblem | None:
    low, high = spec.options.get("min"), spec.options.get("max")
    facts = {"value": value, "min": low, "max": high}
    if low is not None and value < low:
        return LiteralProblem("out_of_range", f"is {value}, below the smallest, {low}", facts=facts)
    if high is not None and value > high:
        return LiteralProblem("out_of_range", f"is {value}, above the largest, {high}", facts=facts)
    return None


def _combo(spec: InputSpec, value: Any) -> LiteralProblem | None:
    if spec.choices is None or spec.takes_upload:
        return None
    chosen = value if isinstance(value, list) and spec.options.get("multiselect") else [value]
    bad = next((choice for choice in chosen if choice not in spec.choices), None)
    if bad is None and None not in chosen:
        return None
    if isinstance(bad, str) and remedies.is_model_file(bad):
        return _missing_file(spec, bad)
    near = nearest(bad, map(str, spec.choices)) if isinstance(bad, str) else None
    listing = ", ".join(map(str, spec.choices[:20])) + (", ..." if len(spec.choices) > 20 else "")
    suggestion = f'did you mean "{near}"?' if near else f"it has {listing}" if listing else "its list is empty"
    return LiteralProblem("not_in_list", f"has no choice {bad!r}: {suggestion}", facts={"value": bad, "nearest": near})


def _missing_file(spec: InputSpec, name: str) -> LiteralProblem:
    choices = spec.choices or ()
    there = ", ".join(map(str, choices[:5])) + (", ..." if len(choices) > 5 else "") if choices else "no file"
    message = f'names the model file "{name}", which the engine does not have; it lists {there}'
    model_id, hint = remedies.for_model_file(name, spec.name)
    return LiteralProblem("missing_model", message, hint, {"value": name, "model": model_id})


def _integer(value: Any) -> int | None:
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _string(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "INT": _integer,
    "FLOAT": _float,
    "STRING": _string,
    "BOOLEAN": _boolean,
}
