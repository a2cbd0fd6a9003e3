"""What node classes an engine declares in its ``/object_info``, what each takes and gives, and a value against that.

The declarations of the oldest and the newest ComfyUI that we test are recorded here, so that a graph can be judged
offline: types, ranges and choices only, no texts, and where a choice is a file on somebody's disk, no list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from ..similar import nearest
from . import remedies

ObjectInfo = Mapping[str, Mapping[str, Any]]
"""The JSON of ``GET /object_info``: class name -> its declaration."""

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_ANY = "*"
_DYNAMIC = "COMFY_"
_RECORDED = files(__package__) / "recorded"


def versions() -> tuple[str, ...]:
    """The recorded ComfyUI versions, oldest first."""
    names = [entry.name.removesuffix(".json") for entry in _RECORDED.iterdir() if entry.name.endswith(".json")]
    return tuple(sorted(names, key=lambda name: [int(part) for part in name.split(".")]))


@cache
def recorded(version: str) -> dict[str, Any]:
    """The recorded ``/object_info`` of one of ``versions()``; shared, so not to be changed."""
    info: dict[str, Any] = json.loads((_RECORDED / f"{version}.json").read_text(encoding="utf-8"))
    return info


@dataclass(frozen=True)
class InputSpec:
    """One declared input. ``choices`` is None when the engine does not list them (not a combo, or filled elsewhere)."""

    name: str
    type: str
    required: bool
    options: Mapping[str, Any]
    choices: tuple[Any, ...] | None

    @property
    def takes_upload(self) -> bool:
        """Whether its value is an uploaded file, which no earlier list can hold."""
        return any(key.endswith("_upload") and value for key, value in self.options.items())

    @property
    def dynamic(self) -> bool:
        """Whether its concrete inputs depend on the graph (autogrow, dynamic combo, match type)."""
        return self.type.startswith(_DYNAMIC)

    @property
    def takes_literal(self) -> bool:
        """Whether a value may stand here, or only a link."""
        types = {part.strip() for part in self.type.split(",")}
        has_widget = any(key in self.options for key in ("default", "socketless", "widgetType"))
        return self.dynamic or has_widget or bool(types & {*WIDGET_TYPES, _ANY})


@dataclass(frozen=True)
class NodeClass:
    """One node class: inputs in the declared order, output types, and whether it makes a graph run."""

    name: str
    inputs: Mapping[str, InputSpec]
    outputs: tuple[str, ...]
    output_node: bool

    @property
    def dynamic(self) -> bool:
        """Whether one of its inputs is, so that there may be inputs which are not declared here."""
        return any(spec.dynamic for spec in self.inputs.values())

    def literal_problems(self, values: Mapping[str, Any]) -> dict[str, LiteralProblem]:
        """What is wrong with those of ``values`` that are no links, by the input's name."""
        literals = {name: value for name, value in values.items() if not isinstance(value, list)}
        asked = {name: spec for name, spec in self.inputs.items() if name in literals and not spec.dynamic}
        found = {name: literal_problem(spec, literals[name]) for name, spec in asked.items()}
        return {name: problem for name, problem in found.items() if problem}


def node_class(object_info: ObjectInfo, name: str) -> NodeClass | None:
    """The declaration of class ``name``; None when the engine has no such class."""
    info = object_info.get(name)
    if info is None:
        return None
    inputs = {
        key: _input(key, spec, required=section == "required")
        for section in ("required", "optional")
        for key, spec in info.get("input", {}).get(section, {}).items()
    }
    outputs = tuple(kind if isinstance(kind, str) else "COMBO" for kind in info.get("output") or ())
    return NodeClass(name=name, inputs=inputs, outputs=outputs, output_node=bool(info.get("output_node")))


def compatible(given: str, wanted: str) -> bool:
    """Whether an output of type ``given`` may be linked to an input of type ``wanted`` (each ``"A"`` or ``"A,B"``)."""
    givens, wanteds = ({part.strip() for part in kind.split(",")} for kind in (given, wanted))
    open_ended = any(kind == _ANY or kind.startswith(_DYNAMIC) for kind in givens | wanteds)
    return open_ended or bool(givens & wanteds)


def _input(name: str, spec: Any, *, required: bool) -> InputSpec:
    kind = spec[0]
    options = spec[1] if len(spec) > 1 else {}
    listed = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
    return InputSpec(
        name=name,
        type="COMBO" if isinstance(kind, list) else str(kind),
        required=required,
        options=options,
        choices=tuple(listed) if listed is not None else None,
    )


@dataclass(frozen=True)
class LiteralProblem:
    """What is wrong with a value; ``message`` goes on from 'input "x" ...'."""

    code: str
    message: str
    hint: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def literal_problem(spec: InputSpec, value: Any) -> LiteralProblem | None:
    """Why an engine or the node itself would refuse ``value``; None when neither would."""
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
