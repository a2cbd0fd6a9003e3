"""A gateway's workflow as one of ours: a graph of one node whose inputs are the parameters of the request."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from ...errors import RylaError
from ...workflows.parameter import PARAMETER_TYPES, Binding, Parameter
from ...workflows.workflow import BoundPrompt, Output, Workflow
from .. import uploads

NODE = "request"
"""The one node: its class is the workflow's name."""


def workflow_of(told: Mapping[str, Any]) -> Workflow:
    """Read ``GET /workflows/NAME``.

    Raises:
        KeyError, TypeError, ValueError: it is none, or of a kind that is not known.
    """
    name = str(told["name"])
    parameters = tuple(_parameter(each) for each in told["parameters"])
    graph = {NODE: {"class_type": name, "inputs": {}, "_meta": {"title": str(told["title"])}}}
    outputs = (Output(str(told["title"]), NODE, "image"),)
    models = tuple(map(str, told.get("models", ())))
    return Workflow(name, str(told["title"]), str(told["summary"]), models, parameters, outputs, graph)


def _parameter(told: Mapping[str, Any]) -> Parameter:
    name, kind = str(told["name"]), told["type"]
    if kind not in PARAMETER_TYPES:
        raise ValueError(f"the parameter {name} is of the unknown type {kind}")
    return Parameter(
        name=name,
        type=kind,
        help=str(told.get("help", "")),
        bindings=(Binding(NODE, NODE, name),),
        required=bool(told.get("required")),
        default=told.get("default"),
        min=told.get("min"),
        max=told.get("max"),
        step=told.get("step"),
        choices=tuple(map(str, told.get("choices", ()))),
        aliases=tuple(map(str, told.get("aliases", ()))),
    )


def body_of(prompt: BoundPrompt) -> bytes:
    """The JSON of a request, pictures as base64.

    Raises:
        RylaError: ``invalid_graph`` for a prompt that was not bound to a gateway's workflow; ``unreadable_file``,
            ``input_changed`` for a picture.
    """
    if NODE not in prompt.graph or prompt.graph[NODE]["class_type"] != prompt.workflow:
        message = f"A gateway runs its own workflows by name; it is given no graph such as {prompt.workflow}."
        raise RylaError("invalid_graph", message, hint="Give the workflow's name and its parameters.")
    fields = dict(prompt.graph[NODE]["inputs"])
    for upload in prompt.uploads:
        fields[upload.input] = base64.b64encode(uploads.read(upload.path, upload.sha256)[0]).decode()
    return json.dumps(fields, allow_nan=False).encode()
