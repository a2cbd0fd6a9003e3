"""The stand-in of ComfyUI's schema API gives the JSON that ComfyUI gives for the same source."""

from __future__ import annotations

import json
from typing import Any

import pytest
from comfyui.conftest import StartComfyUI
from comfyui.process import ComfyUI
from embedded.engine_client import PACK, nodes

# What the newest ComfyUI has changed since 0.3.64, whose JSON the stand-in gives.
CHANGED_SINCE = {
    "RylaTest_Everything": {
        "output": ["IMAGE", "RYLA_TEST", "INT", "COMBO"],
        "output_name": ["picture", "RYLA_TEST", "counts", "fruit"],
    }
}


@pytest.fixture(scope="module")
def server(start_comfyui: StartComfyUI) -> ComfyUI:
    return start_comfyui(route="none", packs=(PACK,))


@pytest.fixture(scope="module")
def object_info(server: ComfyUI) -> dict[str, Any]:
    info: dict[str, Any] = server.get("/object_info")
    return info


@pytest.mark.parametrize("cls", nodes.NODES, ids=lambda cls: cls.__name__)
def test_the_node_info_is_comfyuis(cls: Any, object_info: dict[str, Any], server: ComfyUI) -> None:
    ours = json.loads(json.dumps(cls.GET_NODE_INFO_V1()))
    assert {"input", "input_order", "output", "output_is_list", "output_name", "output_tooltips"} <= ours.keys()
    del ours["python_module"]
    if server.install.version > (0, 3, 64):
        ours |= CHANGED_SINCE.get(ours["name"], {})
    theirs = object_info[ours["name"]]
    assert ours == {key: theirs[key] for key in ours}
