"""The pack in the graph editor: it loads quietly, and a template goes to the engine as it was shipped."""

from __future__ import annotations

import pytest
from comfyui.conftest import StartComfyUI
from comfyui.editor.conftest import Edit
from comfyui.editor.editor import read
from comfyui.process import REPO


@pytest.mark.parametrize("route", ["clone", "paths"])
def test_the_nodes_are_there(edit: Edit, start_comfyui: StartComfyUI, route: str) -> None:
    editor = edit(start_comfyui(route=route))
    editor.settle(2)
    known = editor.js("() => Object.keys(LiteGraph.registered_node_types).filter((each) => each.startsWith('RYLA_'))")
    assert "RYLA_FluxLoader" in known and "RYLA_FaceSimilarity" in known


@pytest.mark.parametrize("name", ["flux-dev", "flux-lora", "flux-instantid", "sdxl-instantid"])
def test_a_template_sends_what_was_shipped(edit: Edit, start_comfyui: StartComfyUI, name: str) -> None:
    editor = edit(start_comfyui(route="clone"))
    editor.load(read(REPO / "example_workflows" / f"{name}.json"))
    sent = sorted(node["class_type"] for node in editor.prompt().values())
    shipped = read(REPO / "workflows" / name / "api.json")
    assert sent == sorted(node["class_type"] for node in shipped.values())
