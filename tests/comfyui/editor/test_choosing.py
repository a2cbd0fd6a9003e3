"""Choosing a LoRA from the list, a saved face from an empty one, and nodes by what people type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lora_files
import pytest
from comfyui.conftest import StartComfyUI
from comfyui.editor import scene
from comfyui.editor.conftest import Edit
from comfyui.editor.editor import Editor
from comfyui.process import ComfyUI
from face_models import portrait

MANY = 10_000
OPEN = """async () => {
    const node = app.graph.nodes.find((each) => each.type === "RYLA_LoraLoader");
    node.widgets.find((each) => each.name === "choose_lora").callback();
    while (!document.querySelector(".ryla-loras .row")) await new Promise((done) => setTimeout(done, 5));
}"""
ROWS = """() => [...document.querySelectorAll(".ryla-loras .row")].map((row) => ({
    id: row.querySelector(".id").textContent, about: row.querySelector(".about").textContent,
    other: row.classList.contains("other"), picture: row.querySelector("img")?.naturalWidth ?? 0 }))"""
VALUES = """() => app.graph.nodes.find((each) => each.type === "RYLA_LoraLoader").widgets
    .filter((each) => each.serialize !== false).map((each) => each.value)"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with LoRAs of two families, two of them with a sample picture."""
    loras = tmp_path_factory.mktemp("models") / "loras"
    lora_files.write(loras / "character-anna.safetensors", lora_files.kohya(lora_files.flux()), lora_files.KOHYA_FLUX)
    lora_files.small(loras / "ünï" / "mira.safetensors", "mira")
    lora_files.write(loras / "style-xl.safetensors", lora_files.kohya(lora_files.SDXL))
    (loras / "broken.safetensors").write_bytes(b"junk")
    portrait(3, 400, 500).save(loras / "character-anna.preview.png")
    portrait(4, 300, 300).save(loras / "ünï" / "mira.png")
    return loras.parent


def graph(lora_id: str = "") -> dict[str, Any]:
    return scene.api("flux-lora", lora_id=lora_id)


def rows(editor: Editor, count: int) -> list[dict[str, Any]]:
    """The rows once ``count`` of them are described."""
    editor.page.wait_for_function(
        "(count) => [...document.querySelectorAll('.ryla-loras .about')].filter((e) => / · |not a/.test(e.textContent))"
        ".length >= count",
        arg=count,
    )
    editor.settle(1)
    return list(editor.js(ROWS))


def designs(server: ComfyUI) -> list[dict[str, Any]]:
    dark = {"Comfy.ColorPalette": "dark", "Comfy.VueNodes.Enabled": False}
    light = {"Comfy.ColorPalette": "light", "Comfy.VueNodes.Enabled": server.install.version >= (0, 33)}
    return [dark, light]


def test_a_lora_is_chosen_from_the_list(edit: Edit, start_comfyui: StartComfyUI, models: Path, tmp_path: Path) -> None:
    server = start_comfyui(models=(models,))
    for number, settings in enumerate(designs(server)):
        editor = edit(server, settings)
        editor.load_api(graph())
        before = editor.js(VALUES)
        if number:  # As a person clicks it, where it is an element of the page.
            scene.look_at(editor, "RYLA_LoraLoader")
        editor.js(OPEN)
        found = {row["id"]: row for row in rows(editor, 4)}
        assert sorted(found) == ["anna", "broken", "style-xl", "ünï/mira"]
        assert found["anna"]["about"].startswith("FLUX.1 · trigger: ohwx woman · ") and found["anna"]["picture"] > 100
        assert found["ünï/mira"]["picture"] > 100 and "mira" in found["ünï/mira"]["about"]
        assert found["style-xl"]["about"].startswith("SDXL") and found["style-xl"]["other"]
        assert "not a safetensors file" in found["broken"]["about"]
        scene.shot(editor, tmp_path, f"list-{number}")
        # A LoRA of another family cannot be taken.
        editor.page.locator(".ryla-loras .row.other").click()
        assert editor.js(VALUES) == before
        editor.page.keyboard.type("ohwx")
        assert [row["id"] for row in editor.js(ROWS)] == ["anna"]
        editor.page.keyboard.press("Enter")
        assert editor.js(VALUES) == ["anna", *before[1:]]
        editor.js(OPEN)
        rows(editor, 4)
        editor.page.locator(".ryla-loras .row", has_text="mira").get_by_role("button").click()
        assert editor.js(VALUES) == ["anna+ünï/mira", *before[1:]]
        # An id of no file in the list can still be typed, there and in the node.
        editor.js(OPEN)
        editor.page.keyboard.type("from-elsewhere")
        editor.page.keyboard.press("Enter")
        sent = next(node for node in editor.prompt().values() if node["class_type"] == "RYLA_LoraLoader")
        assert sent["inputs"]["lora_id"] == "from-elsewhere"
        assert not {"choose_lora", "ryla_report"} & set(sent["inputs"])
        assert editor.js("() => !document.querySelector('.ryla-loras')")


def test_what_was_saved_before_there_was_a_list_is_as_it_was(
    edit: Edit, start_comfyui: StartComfyUI, models: Path
) -> None:
    """Values of a workflow lie in the order of the inputs; a link into lora_id from a text stays, too."""
    editor = edit(start_comfyui(models=(models,)))
    editor.load_api(graph("anna"))
    saved = editor.graph()
    node = next(node for node in saved["nodes"] if node["type"] == "RYLA_LoraLoader")
    assert node["widgets_values"] == ["anna", 1, "error", ""]
    editor.load(saved)
    assert editor.js(VALUES) == ["anna", 1, "error", ""]
    linked = graph() | {"text": {"class_type": "PrimitiveString", "inputs": {"value": "anna"}}}
    linked["2"]["inputs"]["lora_id"] = ["text", 0]
    editor.load_api(linked)
    sent = next(node for node in editor.prompt().values() if node["class_type"] == "RYLA_LoraLoader")
    assert isinstance(sent["inputs"]["lora_id"], list)


def test_r_brings_a_new_lora(edit: Edit, start_comfyui: StartComfyUI, models: Path) -> None:
    editor = edit(start_comfyui(models=(models,)))
    editor.load_api(graph())
    editor.js(OPEN)
    before = [row["id"] for row in rows(editor, 4)]
    editor.page.keyboard.press("Escape")
    new = lora_files.small(models / "loras" / "added.safetensors")
    try:
        editor.command("Comfy.RefreshNodeDefinitions")
        editor.js(OPEN)
        editor.settle(1)
        assert sorted([*before, "added"]) == sorted(row["id"] for row in editor.js(ROWS))
    finally:
        new.unlink()


def test_ten_thousand_loras_open_at_once(
    edit: Edit, start_comfyui: StartComfyUI, tmp_path_factory: pytest.TempPathFactory
) -> None:
    loras = tmp_path_factory.mktemp("many") / "loras"
    data = lora_files.small(loras / "a0.safetensors", "mira").read_bytes()
    for number in range(1, MANY):
        (loras / f"a{number}.safetensors").write_bytes(data)
    server = start_comfyui(models=(loras.parent,))
    editor = edit(server)
    editor.load_api(graph())
    editor.settle(6)  # The list is read in the background.
    editor.js(OPEN)
    assert 0 < len(editor.js(ROWS)) < 40, "only those in sight are in the page"
    assert len(server.http.get("/ryla/loras").content) < 64 * MANY, "a line for each, and no file opened"
    editor.page.keyboard.type("a9999")
    assert [row["id"] for row in editor.js(ROWS)] == ["a9999"]
    editor.page.keyboard.press("Escape")
    assert server.http.get("/object_info/RYLA_LoraLoader").elapsed.total_seconds() < 0.3


def test_an_empty_list_of_faces_says_what_to_do(edit: Edit, start_comfyui: StartComfyUI, tmp_path: Path) -> None:
    editor = edit(start_comfyui(models=(tmp_path,)))
    editor.load_api(
        {
            "1": {"class_type": "RYLA_LoadFace", "inputs": {"combine": "as saved"}},
            "2": {"class_type": "RYLA_SaveFace", "inputs": {"face": ["1", 0], "name": "again"}},
        }
    )
    shown = editor.js("() => app.graph.nodes.find((each) => each.type === 'RYLA_LoadFace').widgets[0].value")
    assert shown == "none yet: run Save Face, then press R"
    answer = editor.server.submit(editor.prompt()).json()
    [error] = answer["node_errors"]["1"]["errors"]
    assert "No face was saved yet" in error["details"] and "Save Face" in error["details"]


def test_nodes_are_found_by_what_people_type(edit: Edit, start_comfyui: StartComfyUI) -> None:
    wanted = {
        "identity": ("Face Embedding (Identity)", "Apply InstantID (Identity)"),
        "face": ("Face Crop",),
        "instantid": ("Load InstantID",),
        "lora": ("Character LoRA",),
        "jpeg": ("Save Image (JPEG, WebP, PNG)",),
        "flux": ("Load FLUX.1 Dev",),
    }
    editor = edit(start_comfyui())
    editor.command("Workspace.SearchBox.Toggle")
    for text, names in wanted.items():
        editor.page.keyboard.press("Control+A")
        editor.page.keyboard.type(text, delay=20)
        for name in names:
            editor.page.get_by_text(name, exact=True).first.wait_for(timeout=10_000)
