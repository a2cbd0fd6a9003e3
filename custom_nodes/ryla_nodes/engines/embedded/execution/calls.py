"""Calling a node: its inputs mapped over lists, its outputs collected, as ComfyUI does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...schema import io
from .. import interrupt

Values = dict[str, list[Any]]


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
        interrupt.check()
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
