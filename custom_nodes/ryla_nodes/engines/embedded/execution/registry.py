"""The node classes that the embedded engine knows: their ``/object_info``, and whether a value fits their inputs."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ....workflows.graph import is_link
from ...schema import io
from .calls import Problem, Reporter, problem_of, shown

NodeClass = type[io.ComfyNode]
Spec = tuple[Any, ...]
Inputs = dict[str, dict[str, Spec]]

OWN_MODULE = "custom_nodes.ryla_nodes"
LONGEST_LIST_SHOWN = 20


def _finite(value: Any) -> float:
    """A number that JSON can hold."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": _finite, "STRING": str, "BOOLEAN": bool}


@dataclass(frozen=True)
class Declaration:
    """What a node class says of itself, looked up once for a request or a job.

    Attributes:
        types: the inputs by group, as ``/object_info`` shows them.
        inputs: the required and the optional ones by name.
        lazy: the names of inputs that are computed only when the node asks for them.
        checked: the names that its ``validate_inputs`` takes; None when it has none.
        checks_all: whether that takes any other, too.
    """

    cls: NodeClass
    schema: io.Schema
    types: Inputs
    inputs: Mapping[str, Spec]
    lazy: frozenset[str]
    checked: frozenset[str] | None
    checks_all: bool

    def checks(self, name: str) -> bool:
        """Whether the node checks the value of an input itself."""
        return self.checks_all or name in (self.checked or ())


class Registry(Mapping[str, NodeClass]):
    """Node classes by their id. Schemas are made anew at each look, since they list the files that are there."""

    def __init__(self, classes: Iterable[NodeClass]) -> None:
        self._classes = {cls.GET_SCHEMA().node_id: cls for cls in classes}
        self._known: dict[str, Declaration] | None = None

    def remembering(self) -> Registry:
        """A view that looks at each class once: for one request, or one job."""
        view = copy.copy(self)
        view._known = {}
        return view

    def __getitem__(self, class_type: str) -> NodeClass:
        return self._classes[class_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def declaration(self, class_type: str) -> Declaration:
        """What a class declares."""
        if self._known is None:
            return self._look_up(class_type)
        if class_type not in self._known:
            self._known[class_type] = self._look_up(class_type)
        return self._known[class_type]

    def schema(self, class_type: str) -> io.Schema:
        """The schema of a class."""
        return self.declaration(class_type).schema

    def info(self, class_type: str) -> dict[str, Any]:
        """The class's entry of ``/object_info``, equal in shape to that of a ComfyUI."""
        cls = self[class_type]
        info = cls.GET_NODE_INFO_V1()
        info["python_module"] = info["python_module"] or OWN_MODULE
        if _declared_in_old_form(cls):
            info["input"] = _old_inputs(info["input"])
            for key in ("deprecated", "experimental", "api_node"):
                del info[key]
        return info

    def _look_up(self, class_type: str) -> Declaration:
        cls = self[class_type]
        schema = cls.GET_SCHEMA()
        types = schema.input_types()
        if _declared_in_old_form(cls):
            types = _old_inputs(types)
        inputs = types["required"] | types.get("optional", {})
        lazy = frozenset(item.id for item in schema.inputs or () if item.lazy)
        return Declaration(cls, schema, types, inputs, lazy, *_own_check_arguments(cls))


def _declared_in_old_form(cls: NodeClass) -> bool:
    """Whether ComfyUI itself declares this class in its older style, whose JSON differs."""
    return cls.RELATIVE_PYTHON_MODULE == "nodes"


def _old_inputs(inputs: Inputs) -> Inputs:
    """A combo's type is its list of options; no option stands for itself; hidden inputs are plain strings."""
    old: Inputs = {}
    for group, items in inputs.items():
        for name, spec in items.items():
            old.setdefault(group, {})[name] = spec[0] if group == "hidden" else _old_spec(*spec)
    return {"required": {}} | old


def _old_spec(kind: Any, options: Mapping[str, Any]) -> Spec:
    shown = {name: value for name, value in options.items() if name not in ("multiselect", "options")}
    if shown.get("multiline") is False:
        del shown["multiline"]
    kind = list(options["options"] or ()) if kind == "COMBO" else kind
    return (kind, shown) if shown else (kind,)


def config_of(spec: Spec) -> tuple[Any, Mapping[str, Any]]:
    """An input's type and options, as errors show them."""
    return spec[0], spec[1] if len(spec) > 1 else {}


def constant_problem(declaration: Declaration, inputs: dict[str, Any], name: str) -> Problem | None:
    """Convert the constant in input ``name`` to its type, in place, and check its range or list.

    Inputs that the node's own ``validate_inputs`` names are only converted.
    """
    kind, options = config_of(declaration.inputs[name])
    value = inputs[name]
    if isinstance(value, dict) and "__value__" in value:
        value = inputs[name] = value["__value__"]
    convert = _CONVERSIONS.get(kind) if isinstance(kind, str) else None
    if convert is not None:
        try:
            value = inputs[name] = convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"Failed to convert an input value to a {kind} value"
            value, told = shown(value), shown(str(error))
            facts = {"input_config": (kind, options), "received_value": value, "exception_message": told}
            return problem_of("invalid_input_type", message, f"{name}, {value}, {told}", input_name=name, **facts)
    if declaration.checks(name):
        return None
    return _range_problem(name, value, kind, options) or _list_problem(name, value, kind, options)


def custom_problems(
    declaration: Declaration, inputs: Mapping[str, Any], received: Mapping[str, Any], reporter: Reporter
) -> list[Problem]:
    """The errors of the node's own ``validate_inputs``: one an input that it names. Links are passed as None."""
    if declaration.checked is None:
        return []
    arguments: dict[str, Any] = {
        name: None if is_link(value) else value
        for name, value in inputs.items()
        if name in declaration.inputs and declaration.checks(name)
    }
    if "input_types" in declaration.checked:
        arguments["input_types"] = dict(received)
    answer = declaration.cls.PREPARE_CLASS_CLONE(None).validate_inputs(**arguments)
    if answer is True:
        return []
    told = "" if answer is False else f" - {reporter.hide(str(answer))}"
    message = "Custom validation failed for node"
    return [problem_of("custom_validation_failed", message, f"{name}{told}", input_name=name) for name in arguments]


def link_types_match(declaration: Declaration, output: Any, wanted: Any) -> bool:
    """Whether an output of type ``output`` may be linked to an input of type ``wanted`` of a node.

    Types are names, comma-separated unions of names, ``*``, or (for a combo) the list of its values.
    """
    if "input_types" in (declaration.checked or ()) or output == wanted or "*" in (output, wanted):
        return True
    if isinstance(output, list):
        return bool(wanted == io.Combo.io_type)
    if not isinstance(output, str) or not isinstance(wanted, str):
        return False
    outputs, inputs = ({part.strip() for part in kinds.split(",")} for kinds in (output, wanted))
    return bool(outputs & inputs) or "*" in outputs | inputs


def _range_problem(name: str, value: Any, kind: Any, options: Mapping[str, Any]) -> Problem | None:
    facts = {"input_name": name, "input_config": (kind, options), "received_value": shown(value)}
    if "min" in options and value < options["min"]:
        return problem_of(
            "value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", name, **facts
        )
    if "max" in options and value > options["max"]:
        return problem_of("value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name, **facts)
    return None


def _list_problem(name: str, value: Any, kind: Any, options: Mapping[str, Any]) -> Problem | None:
    if not isinstance(kind, list) and kind != io.Combo.io_type:
        return None
    values = kind if isinstance(kind, list) else options.get("options", [])
    if value in values:
        return None
    short = len(values) <= LONGEST_LIST_SHOWN
    told = str(values) if short else f"(list of length {len(values)})"
    value = shown(value)
    facts = {"input_name": name, "input_config": (kind, options) if short else None, "received_value": value}
    return problem_of("value_not_in_list", "Value not in list", f"{name}: {value!r} not in {told}", **facts)


def _own_check_arguments(cls: NodeClass) -> tuple[frozenset[str] | None, bool]:
    """The names that the node's ``validate_inputs`` takes (None: it has none), and whether it takes any other."""
    check = getattr(cls, "validate_inputs", None)
    if check is None:
        return None, False
    parameters = inspect.signature(check).parameters.values()
    named = frozenset(each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD)
    return named, any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
