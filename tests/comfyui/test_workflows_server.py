"""The validator against the real thing: ComfyUI refuses what it refuses, and the shipped graphs stand."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui.process import ComfyUI
from ryla_nodes import settings
from ryla_nodes.workflows.manifest import available, load
from ryla_nodes.workflows.object_info import recorded, versions
from ryla_nodes.workflows.validate import problems
from unit.workflows_broken_graphs import VARIANTS, Variant


def accepted(server: ComfyUI, graph: dict[str, Any]) -> bool:
    """Whether POST /prompt would run every output; what it accepts is taken back from the queue."""
    answer = server.http.post("/prompt", json={"prompt": graph})
    server.http.post("/queue", json={"clear": True})
    server.http.post("/interrupt")
    return answer.status_code == 200 and not answer.json()["node_errors"]


@pytest.fixture(scope="module")
def classes(start_comfyui: Any) -> dict[str, Any]:
    answer: dict[str, Any] = start_comfyui().http.get("/object_info").json()
    return answer


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_server_agrees(comfyui: ComfyUI, classes: dict[str, Any], variant: Variant) -> None:
    errors = [problem.code for problem in problems(variant.graph, classes) if problem.severity == "error"]
    assert errors[:1] == [variant.code] if variant.code else errors == []
    # 0.3.64 drops the outputs that wait for a circle and says nothing.
    drops_silently = variant.code == "cycle" and comfyui.install.version < (0, 4)
    lenient = variant.server_lenient or drops_silently
    assert accepted(comfyui, variant.graph) == (not variant.code or lenient)


def test_a_model_that_is_not_there(comfyui: ComfyUI, classes: dict[str, Any]) -> None:
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    (problem,) = problems(graph, classes)
    assert (problem.code, problem.hint) == ("missing_model", "ryla models install flux1-dev")
    assert not accepted(comfyui, graph)


def test_the_shipped_graphs_fit_this_engine(classes: dict[str, Any]) -> None:
    environment = settings.load({})
    for name in available(environment):
        assert problems(load(name, environment).graph, classes) == [], name


def test_the_recording_is_what_this_engine_says(comfyui: ComfyUI, classes: dict[str, Any]) -> None:
    version = ".".join(map(str, comfyui.install.version))
    if version not in versions():
        pytest.skip(f"Does not apply: ComfyUI {version} is not a recorded one ({', '.join(versions())}).")
    for name, info in recorded(version).items():
        live = classes[name]
        assert info["output"] == live["output"], f"{name}: run scripts/record_object_info.py"
        for section in ("required", "optional"):
            assert list(info["input"][section]) == list(live["input"].get(section, {})), name
