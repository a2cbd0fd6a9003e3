"""A picture that Save Image wrote gives its graph back when it is dropped on the canvas: JPEG, WebP and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comfyui.conftest import StartComfyUI
from comfyui.editor.conftest import Edit
from comfyui.editor.editor import Editor
from comfyui.process import ComfyUI
from PIL import Image

FORMATS = ["jpeg", "webp", "png"]


def graph(format_name: str, **inputs: Any) -> dict[str, Any]:
    saved = {"filename_prefix": "kept", "format": format_name, "quality": 92, "metadata": True, **inputs}
    plain = {"width": 96, "height": 64, "batch_size": 1, "color": 0x405060}
    return {
        "1": {"class_type": "EmptyImage", "inputs": plain},
        "2": {"class_type": "RYLA_SaveImage", "inputs": {"images": ["1", 0], **saved}},
    }


def run(editor: Editor, api: dict[str, Any], note: str = "") -> Path:
    """Make a picture as a person does, from a graph that the editor has laid out."""
    editor.load_api(api)
    editor.js("(note) => { app.graph.extra.note = note; app.graph.nodes[0].pos = [123, 456]; }", note)
    editor.command("Comfy.QueuePrompt")
    [picture] = [image for output in editor.finish()["outputs"].values() for image in output["images"]]
    return Path(editor.server.output / picture["filename"])


def nodes(editor: Editor) -> list[str]:
    return sorted(node["type"] for node in editor.graph()["nodes"])


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_picture_gives_its_graph_back(edit: Edit, start_comfyui: StartComfyUI, format_name: str) -> None:
    editor = edit(start_comfyui())
    path = run(editor, graph(format_name))
    editor.load_api({"1": graph("png")["1"]})
    assert nodes(editor) == ["EmptyImage"]
    editor.drop(path)
    assert nodes(editor) == ["EmptyImage", "RYLA_SaveImage"]
    placed = next(node for node in editor.graph()["nodes"] if node["type"] == "EmptyImage")
    assert [round(edge) for edge in placed["pos"]] == [123, 456], "the workflow, and not only the prompt"
    title = editor.js("() => app.extensionManager.workflow.activeWorkflow.filename")
    assert str(title).startswith("kept_")


def test_a_long_workflow_too(edit: Edit, start_comfyui: StartComfyUI) -> None:
    editor = edit(start_comfyui())
    path = run(editor, graph("jpeg"), note="x" * 150_000)
    editor.load_api({"1": graph("png")["1"]})
    editor.drop(path)
    assert nodes(editor) == ["EmptyImage", "RYLA_SaveImage"]
    assert editor.js("() => app.graph.extra.note.length") == 150_000


def test_a_jpeg_of_others_is_what_it_was_to_the_editor(edit: Edit, start_comfyui: StartComfyUI, tmp_path: Path) -> None:
    """Pictures without a graph, with the EXIF of a camera, and cut ones."""
    exif = Image.Exif()
    exif[0x0110] = "Camera: model"
    Image.new("RGB", (64, 64), "navy").save(tmp_path / "camera.jpg", exif=exif)
    Image.new("RGB", (64, 64), "navy").save(tmp_path / "plain.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "camera.jpg").read_bytes()[:40])
    bare, ours = edit(start_comfyui(route="none")), edit(start_comfyui())
    for name in ("plain.jpg", "camera.jpg"):
        for editor in (bare, ours):
            editor.load_api({"1": graph("png")["1"]})
            editor.drop(tmp_path / name)
        assert nodes(ours) == nodes(bare)
    ours.drop(tmp_path / "cut.jpg")
    assert "RYLA_SaveImage" not in nodes(ours)


@pytest.mark.parametrize("format_name", FORMATS)
def test_disable_metadata_keeps_the_graph_out(start_comfyui: StartComfyUI, format_name: str) -> None:
    server: ComfyUI = start_comfyui(arguments=("--disable-metadata",))
    entry = server.run(graph(format_name), extra_data={"extra_pnginfo": {"workflow": {"nodes": []}}})
    [picture] = entry["outputs"]["2"]["images"]
    data = (server.output / picture["filename"]).read_bytes()
    assert b"EmptyImage" not in data and b"workflow" not in data
