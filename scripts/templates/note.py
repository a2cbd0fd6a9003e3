"""The note of a template: what it makes, what to install, what to choose."""

from __future__ import annotations

import math
import re
from typing import Any

from ryla_nodes.workflows.workflow import Workflow

from templates import models

WIDTH = 460
_COLORS = {"color": "#432", "bgcolor": "#653"}
_LINE, _LETTERS, _MARGIN = 19, 66, 70
_TAG = re.compile(r"<(\w+)>")  # Markdown would swallow it.
_GET_MODELS = "python scripts/install_models.py {name}"


def node(workflow: Workflow, number: int, place: tuple[int, int]) -> dict[str, Any]:
    """The note as a node, high enough for its text."""
    text = markdown(workflow)
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": list(place),
        "size": [WIDTH, _height(text)],
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me",
        "properties": {},
        "widgets_values": [text],
        **_COLORS,
    }


def markdown(workflow: Workflow) -> str:
    """The note's text."""
    steps = [_install(workflow), *_choices(workflow), "**Write the prompt and press Run.**"]
    numbered = "\n\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    files = "\n".join(f"- `models/{entry.folder}/{entry.filename}`" for entry in models.entries(workflow.models))
    return f"# {workflow.title}\n\n{workflow.summary}\n\n{numbered}\n\nIts models:\n\n{files}\n"


def _install(workflow: Workflow) -> str:
    command = _GET_MODELS.format(name=workflow.name)
    account = "".join(
        f"\n\n   {entry.title} asks for a Hugging Face account: accept its licence at "
        f"[{entry.repo}](https://huggingface.co/{entry.repo}) first."
        for entry in models.gated(workflow.models)
    )
    return (
        "**Get the models, once.** With ComfyUI's Python, in this pack's folder (`custom_nodes/ryla-nodes`):\n\n"
        f"   ```\n   {command}\n   ```\n\n"
        f"   A run tells what is still missing, with the command to paste.{account}"
    )


def _choices(workflow: Workflow) -> list[str]:
    """What has to be chosen before a run, beside the prompt."""
    required = [parameter for parameter in workflow.parameters if parameter.required]
    said = {
        "image": "**Choose a photo** in *{title}*. {help}",
        "lora": "**Choose a LoRA** in *{title}*. {help}",
    }
    return [
        said[each.type].format(title=each.bindings[0].title, help=_TAG.sub(r"*\1*", each.help))
        for each in required
        if each.type in said
    ]


def _height(text: str) -> int:
    """Pixels that the text takes in the editor, wrapped."""
    lines = sum(max(1, math.ceil(len(line) / _LETTERS)) if line else 0.6 for line in text.splitlines())
    return round(lines * _LINE) + _MARGIN
