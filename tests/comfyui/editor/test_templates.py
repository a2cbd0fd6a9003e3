"""The templates in the editor: listed with titles, opened where they can be read, sent to the engine as shipped."""

from __future__ import annotations

import importlib
import io
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import small_models
import tiny_flux
from comfyui.conftest import StartComfyUI
from comfyui.editor.conftest import Edit
from comfyui.editor.editor import Editor, read
from comfyui.process import REPO, ComfyUI, Install
from editor_graph import essence
from PIL import Image

sys.path.insert(0, str(REPO / "scripts"))
TITLES = {each.name: title for title, each in importlib.import_module("export_ui_workflows").titled().items()}
NAMES = sorted(TITLES)
SMALL_SHAPES = REPO / "tests" / "comfyui" / "packs" / "ryla_test_small_shapes"
SAVED = REPO / "tests" / "data" / "saved_workflows"
APP_MODE = (0, 20)
READABLE = 0.8
# The boxes of all nodes as they are drawn, titles included.
_BOXES = """() => app.canvas.graph.nodes.map((node) =>
    [node.title, node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]])"""
_NOTE = """() => {
    const text = [...document.querySelectorAll(".comfy-markdown-content, .comfy-markdown .tiptap")]
        .find((each) => each.checkVisibility() && each.innerText.includes("Get the models"));
    const box = text.getBoundingClientRect();
    const last = [...text.querySelectorAll("li")].at(-1).getBoundingClientRect();
    return { hidden: text.scrollHeight - text.clientHeight, below: last.bottom - box.bottom, top: box.top };
}"""


def pack_of(server: ComfyUI) -> str:
    (name,) = (name for name in server.get("/workflow_templates") if name.startswith("ryla"))
    return str(name)


def opened(editor: Editor, name: str) -> Editor:
    """A template in the editor, as by its card."""
    pack = pack_of(editor.server)
    graph = editor.server.get(f"/api/workflow_templates/{pack}/{quote(TITLES[name])}.json")
    editor.js("async ([graph, name]) => { await app.loadGraphData(graph, true, true, name) }", [graph, TITLES[name]])
    editor.settle(1)
    editor.page.keyboard.press("Escape")  # The list of missing models, where this ComfyUI has one.
    editor.settle(1)
    return editor


def shipped(name: str) -> dict[str, Any]:
    return read(REPO / "workflows" / name / "api.json")


def test_every_template_is_listed_with_its_picture(server: ComfyUI) -> None:
    pack = pack_of(server)
    assert sorted(server.get("/workflow_templates")[pack]) == sorted(TITLES.values())
    for title in TITLES.values():
        assert server.get(f"/api/workflow_templates/{pack}/{quote(title)}.json")["nodes"]
        picture = server.http.get(f"/api/workflow_templates/{pack}/{quote(title)}.jpg").raise_for_status()
        assert Image.open(io.BytesIO(picture.content)).size == (512, 512)


def test_the_simplest_comes_first(edit: Edit, server: ComfyUI) -> None:
    editor = edit(server)
    editor.browse_templates(pack_of(server))
    editor.settle(1)
    lines = [
        line for line in editor.page.get_by_role("dialog").first.inner_text().split("\n") if line in TITLES.values()
    ]
    assert list(dict.fromkeys(lines)) == sorted(TITLES.values())


def test_a_card_opens_its_template(edit: Edit, server: ComfyUI) -> None:
    editor = edit(server)
    editor.open_template(TITLES["flux-dev"], pack_of(server))
    assert essence(editor.prompt()) == essence(shipped("flux-dev"))
    assert TITLES["flux-dev"][:12] in editor.page.inner_text("body"), "the tab is called so"


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_is_sent_what_was_shipped(edit: Edit, start_comfyui: StartComfyUI, name: str) -> None:
    editor = opened(edit(start_comfyui(route="clone")), name)
    assert essence(editor.prompt()) == essence(shipped(name))
    editor.load(editor.graph())
    assert essence(editor.prompt()) == essence(shipped(name)), "saved and opened again"


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_where_it_can_be_read(edit: Edit, start_comfyui: StartComfyUI, name: str) -> None:
    editor = opened(edit(start_comfyui(route="clone")), name)
    assert editor.js("() => app.canvas.ds.scale") >= READABLE
    note = editor.js(_NOTE)
    assert note["hidden"] <= 0 and note["below"] <= 0, "the note is whole"
    assert 0 < note["top"] < 400
    boxes = editor.js(_BOXES)
    for index, (title, left, top, right, bottom) in enumerate(boxes):
        for other, other_left, other_top, other_right, other_bottom in boxes[:index]:
            apart = right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top
            assert apart, f"{title} lies on {other}"


@pytest.mark.parametrize("name", ["flux-instantid", "sdxl-instantid"])
def test_a_workflow_that_was_saved_before_is_sent_as_it_was(edit: Edit, start_comfyui: StartComfyUI, name: str) -> None:
    editor = edit(start_comfyui(route="clone"))
    editor.load(read(SAVED / f"{name}.json"))
    assert essence(editor.prompt()) == essence(read(SAVED / f"{name}.api.json"))


def test_the_long_one_shows_its_stages(edit: Edit, start_comfyui: StartComfyUI) -> None:
    editor = opened(edit(start_comfyui(route="clone")), "flux-instantid")
    assert len(editor.js(_BOXES)) == 8 + 1, "and the note"
    assert len(editor.prompt()) == len(shipped("flux-instantid")) == 30


def test_a_stage_can_be_set_from_outside(edit: Edit, start_comfyui: StartComfyUI) -> None:
    editor = opened(edit(start_comfyui(route="clone")), "sdxl-instantid")
    editor.js(
        """() => {
            const node = app.graph.nodes.find((each) => each.title === "InstantID");
            node.widgets.find((each) => each.name === "width").value = 512;
        }"""
    )
    sent = {node["_meta"]["title"]: node["inputs"] for node in editor.prompt().values()}
    assert sent["Size"]["width"] == sent["Keypoints"]["width"] == 512
    assert sent["Size"]["height"] == 1016


@pytest.mark.parametrize("name", NAMES)
def test_app_mode_is_filled_in(edit: Edit, start_comfyui: StartComfyUI, comfyui_install: Install, name: str) -> None:
    if comfyui_install.version < APP_MODE:
        pytest.skip("Does not apply: this ComfyUI has no App mode.")
    editor = edit(start_comfyui(route="clone"), {"Comfy.AppBuilder.OnboardingSeen": True})
    opened(editor, name)
    editor.command("Comfy.ToggleLinear")
    editor.settle(2)
    said = editor.page.inner_text("body")
    wanted = ["prompt" if name == "flux-instantid" else "text", "seed", "width", "height"]
    wanted += ["image"] if name.endswith("instantid") else []
    wanted += ["lora_id", "strength"] if name.startswith("flux") else []
    assert [each for each in wanted if each not in said.split("\n")] == []
    assert not [line for line in editor.complaints if "appModeStore" in line]
    if "lora_id" in wanted:
        editor.page.keyboard.press("Escape")  # The welcome of the first time.
        editor.page.get_by_role("button", name="Choose a LoRA").locator("visible=true").click()
        editor.page.locator(".ryla-loras").wait_for()
        editor.page.keyboard.press("Escape")
    assert essence(editor.prompt()) == essence(shipped(name))


def test_an_older_comfyui_lists_what_can_be_downloaded(
    edit: Edit, start_comfyui: StartComfyUI, comfyui_install: Install
) -> None:
    if comfyui_install.version >= APP_MODE:
        pytest.skip("Does not apply: this ComfyUI looks for models in the nodes' lists alone.")
    editor = edit(start_comfyui(route="clone"))
    editor.open_template(TITLES["flux-instantid"])
    said = editor.shown()
    for name in ("clip_l.safetensors", "ae.safetensors", "RealVisXL_V5.0_fp16.safetensors"):
        assert name in said
    assert "flux1-dev.safetensors" not in said, "asks for an account"
    assert "not allowed" not in said and "Only allowed" not in said and "Invalid directory" not in said


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small FLUX weights under the names of the real ones, and a LoRA."""
    folder = tmp_path_factory.mktemp("models")
    tiny_flux.ensure(folder)
    small_models.kohya(folder / "loras" / "anna.safetensors")
    return folder


@pytest.mark.parametrize("route", ["clone", "archive"])
def test_a_template_runs(edit: Edit, start_comfyui: StartComfyUI, unpacked: Path, models: Path, route: str) -> None:
    packs = (SMALL_SHAPES, *((unpacked,) if route == "archive" else ()))
    server = start_comfyui(route="clone" if route == "clone" else "none", packs=packs, models=(models,))
    shutil.rmtree(server.output, ignore_errors=True)
    editor = opened(edit(server), "flux-lora")
    editor.set("RYLA_FluxLoader", "model", "tiny-flux.safetensors")  # Made-up weights are only taken by their names.
    editor.set("RYLA_LoraLoader", "lora_id", "anna")
    editor.set("KSampler", "steps", 1)
    editor.js(
        """() => {
            const node = app.graph.nodes.find((each) => each.title === "FLUX settings");
            for (const each of node.widgets) if (["width", "height"].includes(each.name)) each.value = 128;
        }"""
    )
    editor.run()
    entry = editor.finish()
    assert entry["status"]["status_str"] == "success", entry["status"]
    (picture,) = server.output.glob("*.jpg")
    assert Image.open(picture).size == (128, 128)
