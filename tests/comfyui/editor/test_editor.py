"""The pack in the graph editor: it loads quietly."""

from __future__ import annotations

import pytest
from comfyui.conftest import StartComfyUI
from comfyui.editor.conftest import Edit


@pytest.mark.parametrize("route", ["clone", "paths"])
def test_the_nodes_are_there(edit: Edit, start_comfyui: StartComfyUI, route: str) -> None:
    editor = edit(start_comfyui(route=route))
    editor.settle(2)
    known = editor.js("() => Object.keys(LiteGraph.registered_node_types).filter((each) => each.startsWith('RYLA_'))")
    assert "RYLA_FluxLoader" in known and "RYLA_FaceSimilarity" in known
