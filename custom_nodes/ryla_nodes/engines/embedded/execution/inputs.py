"""Checks of single inputs: conversion of constants, ranges, lists of values, link types, a node's own checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ...schema import io
from .registry import NodeClass

Problem = dict[str, Any]
Spec = tuple[Any, ...]

LONGEST_LIST_SHOWN = 20

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def problem_of(kind: str, message: str, details: str, **extra_info: Any) -> Problem:
    """One validation error in ComfyUI's shape."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def config_of(spec: Spec) -> tuple[Any, Mapping[str, Any]]:
    """An input's type and options, as errors show them."""
    return spec[0], spec[1] if len(spec) > 1 else {}


def full_type_name(kind: type[BaseException]) -> str:
    """``torch.OutOfMemoryError``, ``ValueError``: the name under which clients know an exception."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    """What an exception says, even if it cannot say it."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - its own code may raise anything
        return f"(its message cannot be read: {type(error).__name__})"


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


def is_link(value: Any) -> bool:
    """Whether an input's value is ``[node_id, slot]``."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


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
