"""What an engine runs once before it is called ready."""

from __future__ import annotations

from .workflow import Workflow

SECONDS = 900.0
"""How long it may take; the first run loads everything."""

_GIVEN = {"prompt": "a portrait of a person", "width": 256, "height": 256, "steps": 1}


def possible(workflow: Workflow) -> bool:
    """Whether a workflow can be run with nothing but a prompt."""
    return all(parameter.name in _GIVEN or not parameter.required for parameter in workflow.parameters)


def parameters(workflow: Workflow) -> dict[str, object]:
    """The parameters of such a run: a small picture in one step."""
    return {name: value for name, value in _GIVEN.items() if workflow.parameter(name)}
