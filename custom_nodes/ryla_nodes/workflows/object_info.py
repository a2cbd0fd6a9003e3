"""A typed view of an engine's ``/object_info``: what each node class takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ObjectInfo = Mapping[str, Mapping[str, Any]]
"""The JSON of ``GET /object_info``: class name -> its declaration."""

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_ANY = "*"
_DYNAMIC = "COMFY_"


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
        return any(spec.dynamic for spec in self.inputs.values())


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
