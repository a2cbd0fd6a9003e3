"""The App mode of later ComfyUIs: the inputs and pictures of a template that its app shows, ``extra.linearData``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ryla_nodes.workflows.parameter import Parameter
from ryla_nodes.workflows.workflow import Workflow

from templates.folds import Folded

# Parameters of the manifests, in the order in which the app shows them.
SHOWN = ("prompt", "reference_image", "lora_id", "lora_strength", "seed", "width", "height")

CHOOSE_LORA = "choose_lora"


def linear_data(workflow: Workflow, folded: Iterable[Folded]) -> dict[str, Any]:
    """Node and widget of each input, and the nodes whose pictures are shown."""
    stand_ins = {key: each for each in folded for key in each.level.nodes}
    known = {parameter.name: parameter for parameter in workflow.parameters}
    shown = [known[name] for name in SHOWN if name in known]
    inputs = [place for parameter in shown for place in _places(parameter, stand_ins)]
    outputs = [output.node_id for output in workflow.outputs if output.kind == "image"]
    return {"inputs": inputs, "outputs": outputs}


def _places(parameter: Parameter, stand_ins: Mapping[int, Folded]) -> list[list[str]]:
    """The widget of a parameter; a LoRA's with the button that opens the list of them (``web/js/loras.js``)."""
    widget = _widget(parameter.bindings[0], stand_ins)
    return [widget, [widget[0], CHOOSE_LORA]] if parameter.type == "lora" else [widget]


def _widget(binding: Any, stand_ins: Mapping[int, Folded]) -> list[str]:
    folded = stand_ins.get(int(binding.node_id))
    if folded is None:
        return [binding.node_id, binding.input]
    return [str(folded.node), folded.shown[binding.title, binding.input]]
