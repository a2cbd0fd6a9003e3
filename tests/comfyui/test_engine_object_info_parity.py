"""The embedded engine's core nodes have the inputs, defaults, ranges and outputs of ComfyUI's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from comfyui.conftest import StartComfyUI
from ryla_nodes.engines.embedded.server.server import EngineServer

CHANGED_SINCE_THE_FLOOR = ("PrimitiveFloat", "step")
CHECKED_OPTIONS = ("default", "min", "max", "step", "round", "multiline", "forceInput", "lazy", "image_upload")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with EngineServer(tmp_path_factory.mktemp("home"), ()) as engine:
        yield httpx.get(f"{engine.url}/object_info", trust_env=False, timeout=60).json()


@pytest.fixture(scope="module")
def theirs(start_comfyui: StartComfyUI) -> dict[str, Any]:
    info: dict[str, Any] = start_comfyui(route="none").get("/object_info")
    return info


def differences(name: str, group: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    mine, real = ours["input"].get(group, {}), theirs["input"].get(group, {})
    if list(mine) != list(real):
        yield f"{name} {group}: inputs {list(mine)}, ComfyUI's {list(real)}"
        return
    for item in mine:
        (kind, *options), (real_kind, *real_options) = mine[item], real[item]
        if isinstance(kind, list) != isinstance(real_kind, list) or (not isinstance(kind, list) and kind != real_kind):
            yield f"{name}.{item}: type {kind}, ComfyUI's {real_kind}"
        for option in CHECKED_OPTIONS:
            value, real_value = ((given[0] if given else {}).get(option) for given in (options, real_options))
            if value != real_value and (name, option) != CHANGED_SINCE_THE_FLOOR:
                yield f"{name}.{item}: {option} {value!r}, ComfyUI's {real_value!r}"


def test_the_core_nodes_are_comfyuis(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    found = [f"{name} is no class of ComfyUI" for name in ours if name not in theirs]
    for name in ours.keys() & theirs.keys():
        for group in ("required", "optional"):
            found += differences(name, group, ours[name], theirs[name])
        # Newer versions give the pictures on as an output of the nodes that save them.
        if name not in ("SaveImage", "PreviewImage") and ours[name]["output"] != theirs[name]["output"]:
            found.append(f"{name}: outputs {ours[name]['output']}, ComfyUI's {theirs[name]['output']}")
        if ours[name]["output_node"] != theirs[name]["output_node"]:
            found.append(f"{name}: output_node {ours[name]['output_node']}")
        if ours[name]["python_module"] != theirs[name]["python_module"]:
            found.append(f"{name}: of {ours[name]['python_module']}, in ComfyUI of {theirs[name]['python_module']}")
    assert found == []
