"""What happened is seen on the nodes: reports and pictures, in both node designs, in a dark and a light palette."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import shipped_models
import tiny_flux
from comfyui.conftest import StartComfyUI
from comfyui.editor import scene
from comfyui.editor.conftest import Edit
from comfyui.editor.editor import Editor
from comfyui.process import ComfyUI, Install
from ryla_nodes.engines.embedded.inference import demo_lora
from ryla_nodes.models.headers import read_header

SITE = os.environ.get("RYLA_TEST_SITE_PACKAGES", "")
ENVIRON = {"PYTHONPATH": SITE} if SITE else {}
CONTRAST = """() => {
    const style = getComputedStyle(document.querySelector(".ryla-report"));
    const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).reduce((sum, each) => sum + Number(each), 0) / 3;
    return Math.abs(light(style.color) - light(style.backgroundColor));
}"""
KEEP_SEEDS = """() => {
    const widgets = app.graph.nodes.flatMap((each) => each.widgets ?? []);
    for (const each of widgets) if (each.name === "control_after_generate") each.value = "fixed";
}"""
TOOK = """() => app.graph.nodes.filter((each) => each.type === "RYLA_FluxLoader")
    .map((each) => each.widgets.find((widget) => widget.name === "ryla_report")?.element.textContent.split(" from ")[0])
"""
PICTURES = """(type) => {
    const node = app.graph.nodes.find((each) => each.type === type);
    return (app.nodeOutputs[node.id]?.images ?? []).map((each) => each.type);
}"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with every small model and a LoRA."""
    models = tmp_path_factory.mktemp("home") / "models"
    tiny_flux.ensure(models)
    shipped_models.identity(models)
    header = read_header(models / "diffusion_models" / "tiny-flux.safetensors")
    (models / "loras").mkdir(exist_ok=True)
    demo_lora.write(models / "loras" / "character-anna.safetensors", header, "kohya", "ohwx woman")
    return models


@pytest.fixture
def server(start_comfyui: StartComfyUI, home: Path) -> ComfyUI:
    running = start_comfyui(packs=scene.PACKS, models=(home,), environ=ENVIRON)
    scene.photo(running)
    return running


@pytest.fixture
def faces(comfyui_install: Install) -> None:
    command = [str(comfyui_install.python), "-c", "import insightface"]
    if subprocess.run(command, env={**os.environ, **ENVIRON}, capture_output=True).returncode:
        pytest.skip("this ComfyUI's Python has no insightface (and RYLA_TEST_SITE_PACKAGES names no folder with it)")


def ran(editor: Editor, graph: dict[str, Any]) -> dict[str, Any]:
    """Load a graph, queue it and wait: its outputs. Neither the prompt nor the workflow's values may change by it."""
    editor.load_api(graph)
    editor.js(KEEP_SEEDS)
    prompt, saved = editor.prompt(), values(editor)
    editor.command("Comfy.QueuePrompt")
    entry = editor.finish()
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert (editor.prompt(), values(editor)) == (prompt, saved)
    return dict(entry["outputs"])


def values(editor: Editor) -> list[Any]:
    return [(node["type"], node.get("widgets_values") or []) for node in editor.graph()["nodes"]]


def designs(server: ComfyUI) -> list[dict[str, Any]]:
    """The editor's settings to try: 0.33 has two designs of nodes."""
    dark = {"Comfy.ColorPalette": "dark", "Comfy.VueNodes.Enabled": False}
    light = {"Comfy.ColorPalette": "light", "Comfy.VueNodes.Enabled": server.install.version >= (0, 33)}
    return [dark, light]


def test_files_lora_and_prompt_are_told(edit: Edit, server: ComfyUI, tmp_path: Path) -> None:
    for number, settings in enumerate(designs(server)):
        editor = edit(server, settings)
        outputs = ran(editor, scene.api("flux-lora", lora_id="anna"))
        loaded = scene.text_on(editor, "RYLA_FluxLoader")
        assert loaded.startswith("transformer: tiny-flux.safetensors from ") and loaded.count("\n") == 3
        lora = scene.text_on(editor, "RYLA_LoraLoader")
        assert "matched" in lora and "trigger word 'ohwx woman'" in lora
        prompt = scene.text_on(editor, "RYLA_Prompt")
        assert prompt.startswith("ohwx woman, ")
        # Clients read the same in the history.
        assert [prompt] in [output.get("text") for output in outputs.values()]
        assert editor.js(CONTRAST) > 90, settings
        scene.look_at(editor, "RYLA_FluxLoader")
        scene.shot(editor, tmp_path, f"lora-{number}")


def test_faces_are_shown(edit: Edit, server: ComfyUI, faces: None, tmp_path: Path) -> None:
    graph = scene.api("flux-instantid")
    crop = next(node for node in graph.values() if node["class_type"] == "RYLA_FaceCrop")
    photo = next(key for key, node in graph.items() if node["class_type"] == "LoadImage")
    crop["inputs"]["image"] = [photo, 0]  # Small models render no face.
    for number, settings in enumerate(designs(server)):
        editor = edit(server, settings)
        outputs = ran(editor, graph)
        assert "a face of " in scene.text_on(editor, "RYLA_FaceCrop")
        assert "is rendered at 256 px" in scene.text_on(editor, "RYLA_FaceCrop")
        assert scene.text_on(editor, "RYLA_FaceSimilarity").startswith("face similarity")
        assert "ryla-paint-ip-adapter" in scene.text_on(editor, "RYLA_InstantIDLoader")
        assert "antelopev2" in scene.text_on(editor, "RYLA_FaceAnalyzer")
        for kind in ("RYLA_FaceCrop", "RYLA_FaceSimilarity"):
            assert editor.js(PICTURES, kind) == ["temp"]
            scene.look_at(editor, kind)
            scene.shot(editor, tmp_path, f"{kind}-{number}")
        for output in outputs.values():
            for image in output.get("images", ()):
                answer = server.http.get("/view", params=image)
                assert answer.status_code == 200 and answer.headers["content-type"].startswith("image/")


def test_a_photo_without_a_face_is_told_on_the_node(edit: Edit, server: ComfyUI, faces: None) -> None:
    plain = {"class_type": "EmptyImage", "inputs": {"width": 300, "height": 200, "batch_size": 1, "color": 0x405060}}
    graph: dict[str, Any] = {
        "1": plain,
        "2": {"class_type": "RYLA_FaceAnalyzer", "inputs": {"provider": "CPU"}},
        "3": {"class_type": "RYLA_FaceCrop", "inputs": {
            "analyzer": ["2", 0], "image": ["1", 0], "crop_factor": 2.2, "size": 256, "on_no_face": "pass",
            "order": "size", "index": 0}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }  # fmt: skip
    editor = edit(server)
    ran(editor, graph)
    assert scene.text_on(editor, "RYLA_FaceCrop") == "no face to replace (0 found): the picture stays as it is"
    assert editor.js(PICTURES, "RYLA_FaceCrop") == ["temp"]


def test_two_loaders_and_two_tabs_of_workflows(edit: Edit, server: ComfyUI, home: Path) -> None:
    """Each loader says what it took, and says it again when its workflow is shown again."""
    graph: dict[str, Any] = {}
    for key in ("1", "2"):
        plain = {"width": 64, "height": 64, "batch_size": 1, "color": int(key)}
        load = {"model": "tiny-flux.safetensors", "weight_dtype": "default", "text_encoder": "auto"}
        graph[f"{key}0"] = {"class_type": "EmptyImage", "inputs": plain}
        graph[f"{key}1"] = {"class_type": "RYLA_FluxLoader", "inputs": load}
        graph[f"{key}2"] = {"class_type": "VAEEncode", "inputs": {"pixels": [f"{key}0", 0], "vae": [f"{key}1", 2]}}
        graph[f"{key}3"] = {"class_type": "VAEDecode", "inputs": {"samples": [f"{key}2", 0], "vae": [f"{key}1", 2]}}
        graph[f"{key}4"] = {"class_type": "PreviewImage", "inputs": {"images": [f"{key}3", 0]}}
    editor = edit(server)
    ran(editor, graph)
    editor.settle(2)
    assert editor.js(TOOK) == ["transformer: tiny-flux.safetensors"] * 2
    editor.command("Comfy.NewBlankWorkflow")
    assert editor.js(TOOK) == []
    editor.command("Workspace.PreviousOpenedWorkflow")
    editor.settle(1)
    assert editor.js(TOOK) == ["transformer: tiny-flux.safetensors"] * 2


def test_another_tab_of_the_browser_is_left_alone(edit: Edit, server: ComfyUI) -> None:
    first, second = edit(server), edit(server)
    graph = scene.api("flux-lora")
    second.load_api(graph)
    ran(first, graph)
    assert scene.text_on(first, "RYLA_LoraLoader") == "No LoRA: lora_id is empty."
    assert scene.text_on(second, "RYLA_LoraLoader") == ""
