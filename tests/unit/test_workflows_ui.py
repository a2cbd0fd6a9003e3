"""The editor's templates of the workflows: current, loadable, and the same graph when read back."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from editor_graph import essence
from ryla_nodes import settings
from ryla_nodes.models import catalogue
from ryla_nodes.workflows.manifest import available, load
from ryla_nodes.workflows.object_info import recorded, versions
from unit import workflows_comfy_cli as comfy_cli

REPO = Path(__file__).resolve().parents[2]
COPIES = REPO / "example_workflows"
FOLDERS = (COPIES, REPO / "custom_nodes" / "ryla_nodes" / "example_workflows")
ENVIRONMENT = settings.load({})
NAMES = sorted(available(ENVIRONMENT))
sys.path.insert(0, str(REPO / "scripts"))


def exporter() -> Any:
    return importlib.import_module("export_ui_workflows")


TITLES = {workflow.name: title for title, workflow in exporter().titled().items()}


def copy_of(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((COPIES / f"{TITLES[name]}.json").read_text(encoding="utf-8"))
    return document


def levels(document: dict[str, Any]) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]], set[int]]]:
    """Nodes, links and further ends of links of the graph and of each of its subgraphs."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in document["links"]]
    inner = document.get("definitions", {}).get("subgraphs", [])
    return [(document["nodes"], links, set()), *((each["nodes"], each["links"], {-10, -20}) for each in inner)]


def every_node(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for nodes, _, _ in levels(document) for node in nodes]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_there_is_one_current_template_of_each_workflow_wherever_comfyui_looks(folder: Path) -> None:
    texts = exporter().templates()
    assert {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.json")} == texts
    assert sorted(path.stem for path in folder.glob("*.jpg")) == sorted(texts)
    for title in texts:
        assert (folder / f"{title}.jpg").read_bytes() == (COPIES / f"{title}.jpg").read_bytes()


def test_file_names_are_titles_with_the_simplest_first_that_every_system_and_address_takes() -> None:
    assert TITLES["flux-dev"].startswith("1 ") and TITLES["flux-instantid"].startswith("4 ")
    for title in TITLES.values():
        assert re.fullmatch(r"\d [\w., ()-]+", title) and len(title) < 50


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_consistent(name: str) -> None:
    """What the editor relies on: every link known at both ends, and an order that runs along them."""
    document = copy_of(name)
    assert document["last_node_id"] == max(node["id"] for node in every_node(document))
    ids = [link["id"] for _, links, _ in levels(document) for link in links]
    assert len(ids) == len(set(ids)) and document["last_link_id"] == max(ids)
    for listed, links, ends in levels(document):
        nodes = {node["id"]: node for node in listed}
        for link in links:
            source, target = nodes.get(link["origin_id"]), nodes.get(link["target_id"])
            assert (source or link["origin_id"] in ends) and (target or link["target_id"] in ends)
            if source:
                output = source["outputs"][link["origin_slot"]]
                assert link["id"] in output["links"] and output["type"] == link["type"]
            if target:
                socket = target["inputs"][link["target_slot"]]
                assert socket["link"] == link["id"] and socket["type"] == link["type"]
            if source and target:
                assert source["order"] < target["order"]
        named = sum(socket["link"] is not None for node in listed for socket in node["inputs"])
        assert named == sum(link["target_id"] in nodes for link in links)


@pytest.mark.parametrize("name", NAMES)
def test_a_subgraph_is_as_its_node_says(name: str) -> None:
    document = copy_of(name)
    inner = document.get("definitions", {}).get("subgraphs", [])
    assert inner, "a stage of each workflow is folded"
    for each in inner:
        (node,) = (node for node in document["nodes"] if node["type"] == each["id"])
        for end in ("inputs", "outputs"):
            assert [(s["name"], s["type"]) for s in node[end]] == [(s["name"], s["type"]) for s in each[end]]
        assert len(node["widgets_values"]) == sum("widget" in socket for socket in node["inputs"])
        for place, socket in enumerate(each["inputs"]):
            found = [link["id"] for link in each["links"] if (link["origin_id"], link["origin_slot"]) == (-10, place)]
            assert socket["linkIds"] == found and found


def test_the_long_workflow_shows_its_stages_and_not_its_plumbing() -> None:
    assert len(load("flux-instantid", ENVIRONMENT).graph) == 30
    assert len(copy_of("flux-instantid")["nodes"]) == 8 + 1, "and the note"


@pytest.mark.parametrize("name", NAMES)
def test_no_node_lies_on_another(name: str) -> None:
    for nodes, _, _ in levels(copy_of(name)):
        boxes = [(*node["pos"], *node["size"]) for node in nodes]
        for index, (x, y, width, height) in enumerate(boxes):
            for other_x, other_y, other_width, other_height in boxes[:index]:
                apart_x = x + width <= other_x or other_x + other_width <= x
                apart_y = y + height + 30 <= other_y or other_y + other_height + 30 <= y
                assert apart_x or apart_y


@pytest.mark.parametrize("name", NAMES)
def test_every_node_but_the_note_stands_in_a_frame(name: str) -> None:
    document = copy_of(name)
    for node in document["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        around = [
            group["title"]
            for group in document["groups"]
            for left, top, wide, high in [group["bounding"]]
            if left <= x and top <= y - 30 and x + width <= left + wide and y + height <= top + high
        ]
        assert len(around) == (node["type"] != "MarkdownNote"), node["title"]


@pytest.mark.parametrize("name", NAMES)
def test_a_template_says_what_to_install_and_to_choose(name: str) -> None:
    (note,) = (node for node in copy_of(name)["nodes"] if node["type"] == "MarkdownNote")
    text, workflow = note["widgets_values"][0], load(name, ENVIRONMENT)
    assert f"python scripts/install_models.py {name}\n" in text and workflow.summary in text
    assert (REPO / "scripts" / "install_models.py").is_file()
    assert ("Choose a photo" in text) == any(each.type == "image" for each in workflow.parameters)
    assert ("Choose a LoRA" in text) == any(each.type == "lora" and each.required for each in workflow.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_the_app_shows_what_people_change_and_the_picture(name: str) -> None:
    document, workflow = copy_of(name), load(name, ENVIRONMENT)
    nodes = {str(node["id"]): node for node in document["nodes"]}
    app = document["extra"]["linearData"]
    chooser = [place for place in app["inputs"] if place[1] == "choose_lora"]  # The button of the list of LoRAs.
    assert len(chooser) == ("lora_id" in {parameter.name for parameter in workflow.parameters})
    inputs = [place for place in app["inputs"] if place not in chooser]
    for node, widget in inputs:
        assert widget in [socket["widget"]["name"] for socket in nodes[node]["inputs"] if "widget" in socket]
    declared = {parameter.name for parameter in workflow.parameters}
    wanted = {"prompt", "reference_image", "lora_id", "lora_strength", "seed", "width", "height"}
    assert len(inputs) == len(wanted & declared)
    assert app["outputs"] == [output.node_id for output in workflow.outputs if output.kind == "image"]


@pytest.mark.parametrize("name", NAMES)
def test_the_editor_is_told_where_each_model_comes_from_that_needs_no_account(name: str) -> None:
    document, known = copy_of(name), catalogue.load()
    listed = [*document["models"], *(m for node in every_node(document) for m in node["properties"].get("models", ()))]
    assert len(listed) > len(document["models"]) > 0
    for model in listed:
        entries = [e for e in known if (e.folder, e.filename) == (model["directory"], model["name"])]
        assert model["hash"] in {entry.sha256 for entry in entries} and model["hash_type"] == "SHA256"
        assert model["name"].endswith(".safetensors"), "the only kind that the oldest editor offers"
        assert re.fullmatch(r"https://huggingface\.co/[\w./-]+/resolve/[\w./-]+", model["url"])
        assert "black-forest-labs" not in model["url"], "asks for an account"
    offered = {(model["directory"], model["name"]) for model in document["models"]}
    for entry in map(known.get, load(name, ENVIRONMENT).models):
        free = entry.filename.endswith(".safetensors") and (not entry.gated or entry.id == "ae")
        assert ((entry.folder, entry.filename) in offered) == free, entry.id


@pytest.mark.parametrize("name", NAMES)
def test_comfy_cli_reads_a_template_back_as_the_same_graph(name: str) -> None:
    command = comfy_cli.find()
    read_back = comfy_cli.to_api(command, COPIES / f"{TITLES[name]}.json", versions()[-1])
    assert essence(read_back) == essence(load(name, ENVIRONMENT).graph)


def test_the_recording_knows_every_class_of_the_templates() -> None:
    for name in NAMES:
        document = copy_of(name)
        own = {each["id"] for each in document["definitions"]["subgraphs"]} | {"MarkdownNote"}
        for version in versions():
            assert {node["type"] for node in every_node(document)} - own <= set(recorded(version))
