"""The editor's copies of the workflows: current, loadable, and the same graph when read back."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from ryla_nodes import settings
from ryla_nodes.workflows.graph import title_of
from ryla_nodes.workflows.manifest import available, load
from ryla_nodes.workflows.object_info import recorded, versions
from unit import workflows_comfy_cli as comfy_cli

REPO = Path(__file__).resolve().parents[2]
COPIES = REPO / "example_workflows"
ENVIRONMENT = settings.load({})
NAMES = sorted(available(ENVIRONMENT))


def exporter() -> Any:
    spec = importlib.util.spec_from_file_location("export_ui_workflows", REPO / "scripts/export_ui_workflows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_of(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((COPIES / f"{name}.json").read_text(encoding="utf-8"))
    return document


def test_there_is_one_current_copy_of_each_workflow() -> None:
    assert sorted(path.stem for path in COPIES.glob("*.json")) == NAMES
    document_text = exporter().document_text
    for name in NAMES:
        text = (COPIES / f"{name}.json").read_text(encoding="utf-8")
        assert text == document_text(load(name, ENVIRONMENT)), "run scripts/export_ui_workflows.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_consistent(name: str) -> None:
    """What the editor relies on: every link known at both ends, and an order that runs along them."""
    document = copy_of(name)
    nodes = {node["id"]: node for node in document["nodes"]}
    assert document["last_node_id"] == max(nodes)
    for link, source, output, target, socket, kind in document["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][socket]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][socket]["type"] == kind
        assert nodes[source]["order"] < nodes[target]["order"]
    named = sum(socket["link"] is not None for node in nodes.values() for socket in node["inputs"])
    assert named == len(document["links"]) == document["last_link_id"]


@pytest.mark.parametrize("name", NAMES)
def test_no_node_lies_on_another(name: str) -> None:
    boxes = [(*node["pos"], *node["size"]) for node in copy_of(name)["nodes"]]
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:index]:
            apart_x = x + width <= other_x or other_x + other_width <= x
            apart_y = y + height + 30 <= other_y or other_y + other_height + 30 <= y
            assert apart_x or apart_y


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_says_which_command_gets_the_models(name: str) -> None:
    (note,) = (node for node in copy_of(name)["nodes"] if node["type"] == "MarkdownNote")
    assert f"ryla models install {name}\n" in note["widgets_values"][0]


@pytest.mark.parametrize("name", NAMES)
def test_comfy_cli_reads_a_copy_back_as_the_same_graph(name: str) -> None:
    command = comfy_cli.find()
    read_back = comfy_cli.to_api(command, COPIES / f"{name}.json", versions()[-1])
    assert _essence(read_back) == _essence(load(name, ENVIRONMENT).graph)


def _essence(graph: dict[str, Any]) -> dict[str, Any]:
    return {key: (node["class_type"], node["inputs"], title_of(node)) for key, node in graph.items()}


def test_the_recording_knows_every_class_of_the_copies() -> None:
    drawn = {node["type"] for name in NAMES for node in copy_of(name)["nodes"]} - {"MarkdownNote"}
    for version in versions():
        assert drawn <= set(recorded(version))
