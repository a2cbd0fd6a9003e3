"""The node classes that the embedded engine knows: their ``/object_info``, and whether a value fits their inputs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from ....workflows.links import is_link
from ...schema import io
from .failures import Problem, problem_of

NodeClass = type[io.ComfyNode]
Spec = tuple[Any, ...]
Inputs = dict[str, dict[str, Spec]]

OWN_MODULE = "custom_nodes.ryla_nodes"
LONGEST_LIST_SHOWN = 20

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class Registry(Mapping[str, NodeClass]):
    """Node classes by their id. Schemas are made anew at each look, since they list the files that are there."""

    def __init__(self, classes: Iterable[NodeClass]) -> None:
        self._classes = {cls.GET_SCHEMA().node_id: cls for cls in classes}
        self._schemas: dict[str, io.Schema] | None = None

    def remembering(self) -> Registry:
        """A view that makes each schema once: for one request, or one job."""
        view = copy.copy(self)
        view._schemas = {}
        return view

    def __getitem__(self, class_type: str) -> NodeClass:
        return self._classes[class_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def schema(self, class_type: str) -> io.Schema:
        """The schema of a class."""
        if self._schemas is None:
            return self[class_type].GET_SCHEMA()
        if class_type not in self._schemas:
            self._schemas[class_type] = self[class_type].GET_SCHEMA()
        return self._schemas[class_type]

    def input_types(self, class_type: str) -> Inputs:
        """The inputs of a class in the form that its ``/object_info`` shows."""
        inputs = self.schema(class_type).input_types()
        return _old_inputs(inputs) if _declared_in_old_form(self[class_type]) else inputs

    def declared(self, class_type: str) -> dict[str, Spec]:
        """The required and optional inputs of a class, by name."""
        types = self.input_types(class_type)
        return types["required"] | types.get("optional", {})

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


def constant_problem(cls: NodeClass, inputs: dict[str, Any], name: str, spec: Spec) -> Problem | None:
    """Convert the constant in input ``name`` to its type, in place, and check its range or list.

    Inputs that the node's own ``validate_inputs`` names are only converted.
    """
    kind, options = config_of(spec)
    value = inputs[name]
    if isinstance(value, dict) and "__value__" in value:
        value = inputs[name] = value["__value__"]
    convert = _CONVERSIONS.get(kind) if isinstance(kind, str) else None
    if convert is not None:
        try:
            value = inputs[name] = convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"Failed to convert an input value to a {kind} value"
            facts = {"input_config": (kind, options), "received_value": value, "exception_message": str(error)}
            return problem_of("invalid_input_type", message, f"{name}, {value}, {error}", input_name=name, **facts)
    named, takes_all = _own_check_arguments(cls)
    if takes_all or name in named:
        return None
    return _range_problem(name, value, kind, options) or _list_problem(name, value, kind, options)


def custom_problems(
    cls: NodeClass, declared: Collection[str], inputs: Mapping[str, Any], received: Mapping[str, Any]
) -> list[Problem]:
    """The errors of the node's own ``validate_inputs``: one an input that it names. Links are passed as None."""
    if not _has_own_check(cls):
        return []
    named, takes_all = _own_check_arguments(cls)
    arguments: dict[str, Any] = {
        name: None if is_link(value) else value
        for name, value in inputs.items()
        if name in declared and (takes_all or name in named)
    }
    if "input_types" in named:
        arguments["input_types"] = dict(received)
    answer = cls.PREPARE_CLASS_CLONE(None).validate_inputs(**arguments)
    if answer is True:
        return []
    told = "" if answer is False else f" - {answer}"
    message = "Custom validation failed for node"
    return [problem_of("custom_validation_failed", message, f"{name}{told}", input_name=name) for name in arguments]


def link_types_match(cls: NodeClass, output: Any, wanted: Any) -> bool:
    """Whether an output of type ``output`` may be linked to an input of type ``wanted`` of ``cls``.

    Types are names, comma-separated unions of names, ``*``, or (for a combo) the list of its values.
    """
    if "input_types" in _own_check_arguments(cls)[0] or output == wanted or "*" in (output, wanted):
        return True
    if isinstance(output, list):
        return bool(wanted == io.Combo.io_type)
    if not isinstance(output, str) or not isinstance(wanted, str):
        return False
    outputs, inputs = ({part.strip() for part in kinds.split(",")} for kinds in (output, wanted))
    return bool(outputs & inputs) or "*" in outputs | inputs


def _range_problem(name: str, value: Any, kind: Any, options: Mapping[str, Any]) -> Problem | None:
    facts = {"input_name": name, "input_config": (kind, options), "received_value": value}
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
    facts = {"input_name": name, "input_config": (kind, options) if short else None, "received_value": value}
    return problem_of("value_not_in_list", "Value not in list", f"{name}: {value!r} not in {told}", **facts)


def _has_own_check(cls: NodeClass) -> bool:
    return getattr(cls, "validate_inputs", None) is not None


def _own_check_arguments(cls: NodeClass) -> tuple[frozenset[str], bool]:
    """The names that the node's ``validate_inputs`` takes, and whether it takes any other."""
    if not _has_own_check(cls):
        return frozenset(), False
    parameters = inspect.signature(cls.validate_inputs).parameters.values()
    named = frozenset(each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD)
    return named, any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
