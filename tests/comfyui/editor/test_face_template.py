"""From the card of a face template to its picture, in the browser alone: a photo is chosen, Run is pressed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import shipped_models
from comfyui.conftest import StartComfyUI
from comfyui.editor import scene
from comfyui.editor.conftest import Edit
from comfyui.process import ComfyUI, Install
from PIL import Image

SITE = os.environ.get("RYLA_TEST_SITE_PACKAGES", "")
ENVIRON = {"PYTHONPATH": SITE} if SITE else {}
TEMPLATES = {"flux": "4 FLUX.1 Dev with the face of a photo", "sdxl": "3 SDXL with the face of a photo"}
# What the nodes that are folded into a stage say, shown on the stage.
STAGES = {
    "flux": {
        "Prompt and settings": ["Prompt: a portrait"],
        "Face of the photo": ["Face analyzer: antelopev2", "SDXL: checkpoint", "InstantID: adapter", "Face crop: "],
    },
    "sdxl": {"InstantID": ["Face analyzer: antelopev2", "Reference face: ", "InstantID: adapter"]},
}
# How many values each stage has: a seed among them is another after a run.
_VALUES = """() => app.graph.serialize().nodes.filter((node) => node.type.includes("-"))
    .map((node) => node.widgets_values.length)"""
SMALL = {
    "prompt": shipped_models.FACE,  # The stage's; what is folded into it takes its value from there.
    "RYLA_Prompt.text": shipped_models.FACE,
    "steps": 4,
    "width": scene.SIDE,
    "height": scene.SIDE,
    "size": scene.SIDE,
    "image": scene.PHOTO,
}


@pytest.fixture
def server(start_comfyui: StartComfyUI, comfyui_install: Install, tmp_path_factory: pytest.TempPathFactory) -> ComfyUI:
    command = [str(comfyui_install.python), "-c", "import insightface"]
    if subprocess.run(command, env={**os.environ, **ENVIRON}, capture_output=True).returncode:
        pytest.skip("this ComfyUI's Python has no insightface (and RYLA_TEST_SITE_PACKAGES names no folder with it)")
    models = tmp_path_factory.mktemp("faces") / "models"
    shipped_models.flux(models)
    shipped_models.identity(models)
    running = start_comfyui(route="clone", packs=scene.PACKS, models=(models,), environ=ENVIRON)
    scene.photo(running)
    return running


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_card_becomes_a_picture(edit: Edit, server: ComfyUI, tmp_path: Path, name: str) -> None:
    editor = edit(server)
    editor.open_template(TEMPLATES[name])
    editor.page.keyboard.press("Escape")  # 0.3.64 lists the models that the template names.
    editor.js(scene.MAKE_SMALL, SMALL)
    before = editor.js(_VALUES)
    editor.run()
    entry = editor.finish()
    assert entry, editor.shown() + str(editor.shot(tmp_path / "stopped.png"))
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1][1].get("exception_message")
    outputs = list(entry["outputs"].values())
    [saved] = [image for output in outputs for image in output.get("images", ()) if image["type"] == "output"]
    with Image.open(server.output / saved["subfolder"] / saved["filename"]) as picture:
        assert picture.format == "JPEG" and picture.size == (scene.SIDE, scene.SIDE)
    assert any("face_similarity" in output for output in outputs)
    assert "face similarity" in scene.text_on(editor, "RYLA_FaceSimilarity")
    for stage, lines in STAGES[name].items():
        told = scene.told_by(editor, stage)
        assert [line for line in lines if line not in told] == [], told
    assert editor.js(_VALUES) == before, "reports are not saved"
    scene.shot(editor, tmp_path, name)
