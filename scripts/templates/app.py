"""The App mode of later ComfyUIs: the inputs and pictures of a template that its app shows, ``extra.linearData``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ryla_nodes.workflows.workflow import Workflow

from templates.folds import Folded

# Parameters of the manifests, in the order in which the app shows them.
SHOWN = ("prompt", "reference_image", "lora_id", "lora_strength", "seed", "width", "height")


def linear_data(workflow: Workflow, folded: Iterable[Folded]) -> dict[str, Any]:
    """Node and widget of each input, and the nodes whose pictures are shown."""
    stand_ins = {key: each for each in folded for key in each.level.nodes}
    known = {parameter.name: parameter for parameter in workflow.parameters}
    inputs = [_widget(known[name].bindings[0], stand_ins) for name in SHOWN if name in known]
    outputs = [output.node_id for output in workflow.outputs if output.kind == "image"]
    return {"inputs": inputs, "outputs": outputs}


def _widget(binding: Any, stand_ins: Mapping[int, Folded]) -> list[str]:
    folded = stand_ins.get(int(binding.node_id))
    if folded is None:
        return [binding.node_id, binding.input]
    return [str(folded.node), folded.shown[binding.title, binding.input]]
