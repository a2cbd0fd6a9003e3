"""What a graph lacks is told before it is queued: all of it, at once, with one command that works as it stands."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from comfyui.conftest import StartComfyUI
from comfyui.editor.conftest import Edit
from comfyui.editor.editor import Editor, read
from comfyui.process import REPO, ComfyUI

ROUTES = ("clone", "paths")
PACKS = (REPO / "tests" / "comfyui" / "packs" / "ryla_test_analyzer.py",)
ALL_OF_FLUX_INSTANTID = (
    "flux1-dev.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors",
    "RealVisXL_V5.0_fp16.safetensors", "ip-adapter.bin", "instantid/diffusion_pytorch_model.safetensors",
    "models/antelopev2", "w600k_r50.onnx",
)  # fmt: skip


def dialog(editor: Editor) -> Any:
    return editor.page.locator(".ryla-missing")


def commands(editor: Editor) -> list[str]:
    return list(dialog(editor).locator("pre").inner_text().splitlines())


def nothing_ran(server: ComfyUI, before: Collection[str] = ()) -> bool:
    """Whether no job was given to ``server`` since it had run those of ``before``."""
    return set(server.get("/history")) <= set(before) and not any(server.get("/queue").values())


def flux_instantid() -> dict[str, Any]:
    return read(REPO / "workflows" / "flux-instantid" / "api.json")


@pytest.mark.parametrize("route", ROUTES)
def test_a_fresh_comfyui_tells_everything_at_once(
    edit: Edit, start_comfyui: StartComfyUI, route: str, tmp_path: Path
) -> None:
    server = start_comfyui(route=route)
    before = list(server.get("/history"))  # It may be one on which other tests ran.
    editor = edit(server)
    editor.load_template("flux-instantid")
    editor.run()
    shown = editor.shown()
    editor.shot(tmp_path / f"missing-{route}.png")
    for name in ALL_OF_FLUX_INSTANTID:
        assert name in shown
    assert "InsightFace, which the face nodes need, is not installed" in shown
    assert "FLUX.1 [dev] Non-Commercial License" in shown and "HF_TOKEN" in shown
    assert str(server.base / "models" / "diffusion_models") in shown
    assert shown.count("flux1-dev.safetensors") == 1, "each thing once"
    assert nothing_ran(server, before)

    pip, install = commands(editor)
    assert pip == shlex.join([str(server.install.python), "-m", "pip", "install", "insightface>=2.0"])
    assert dialog(editor).get_by_role("button", name="Copy command").is_visible()
    done = subprocess.run(f"{install} --dry-run", shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("flux1-dev", "clip_l", "t5xxl_fp16", "ae", "instantid-adapter", "buffalo_l-w600k_r50"):
        assert f"\n{name} " in done.stderr
    dialog(editor).get_by_role("button", name="Close").click()
    assert not dialog(editor).count() and nothing_ran(server, before)


def test_twenty_eight_missing_models_are_one_list(edit: Edit, start_comfyui: StartComfyUI, tmp_path: Path) -> None:
    server = start_comfyui(route="clone")
    editor = edit(server)
    graph = flux_instantid()
    before = ["2", 0]
    for number in range(19):
        inputs = {"model": before, "lora_name": f"style {number}.safetensors", "strength_model": 1.0}
        graph[f"{100 + number}"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
        before = [f"{100 + number}", 0]
    graph["28"]["inputs"]["model"] = before
    editor.load_api(graph)
    editor.run()
    shown = editor.shown()
    editor.shot(tmp_path / "missing-28.png")
    for name in (*ALL_OF_FLUX_INSTANTID, *(f"style {number}.safetensors" for number in range(19))):
        assert name in shown
    assert nothing_ran(server)


def test_run_anyway_is_the_editors_own_way(edit: Edit, start_comfyui: StartComfyUI, tmp_path: Path) -> None:
    server = start_comfyui(route="clone")
    editor = edit(server)
    editor.load_template("flux-dev")
    editor.run()
    dialog(editor).get_by_role("button", name="Run anyway").click()
    editor.settle(1)
    details = editor.page.get_by_role("button", name="View details")  # Later editors count several errors first.
    if details.count():
        details.click()
        editor.settle(1)
    editor.shot(tmp_path / "anyway.png")
    assert "flux1-dev.safetensors" in editor.shown()
    assert nothing_ran(server)
    editor.complaints.clear()  # The editor logs the refusal.


def test_a_bad_lora_id_is_said_once(edit: Edit, start_comfyui: StartComfyUI) -> None:
    server = start_comfyui(route="clone")
    editor = edit(server)
    editor.load_template("flux-lora")
    editor.set("RYLA_LoraLoader", "lora_id", "no-such-lora")
    editor.run()
    assert editor.shown().count("No LoRA 'no-such-lora'") == 1
    assert nothing_ran(server)


def test_graphs_of_others_are_left_alone(edit: Edit, start_comfyui: StartComfyUI) -> None:
    server = start_comfyui(route="clone")
    editor = edit(server)
    inputs = {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    editor.load_api({
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    })  # fmt: skip
    editor.run()
    assert editor.finish()["status"]["status_str"] == "success"
    assert not dialog(editor).count()
    server.http.post("/history", json={"clear": True})


def scored() -> dict[str, Any]:
    """A picture that is saved, and scored from there."""
    score = {"analyzer": ["1", 0], "reference": ["2", 0], "image": ["3", 0], "threshold": 0.4}
    save = {"images": ["2", 0], "filename_prefix": "kept", "format": "png", "quality": 90, "metadata": False}
    return {
        "1": {"class_type": "RylaTestAnalyzer", "inputs": {}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 200}},
        "3": {"class_type": "RYLA_SaveImage", "inputs": save},
        "4": {"class_type": "RYLA_FaceSimilarity", "inputs": score},
    }


def test_a_missing_recogniser_is_told_and_the_picture_can_still_be_made(
    edit: Edit, start_comfyui: StartComfyUI, tmp_path: Path
) -> None:
    server = start_comfyui(route="clone", packs=PACKS)
    editor = edit(server)
    editor.load_api(scored())
    editor.run()
    assert "w600k_r50.onnx" in editor.shown() and len(commands(editor)) == 1
    assert nothing_ran(server)
    dialog(editor).get_by_role("button", name="Run anyway").click()
    assert editor.finish()["status"]["status_str"] == "success"
    assert [path.name for path in server.output.glob("kept*.png")] == ["kept_00001_.png"]
    server.http.post("/history", json={"clear": True})


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_the_list_can_be_read_in_every_palette(
    edit: Edit, start_comfyui: StartComfyUI, palette: str, tmp_path: Path
) -> None:
    server = start_comfyui(route="clone", packs=PACKS)
    editor = edit(server, {"Comfy.ColorPalette": palette})
    editor.load_template("sdxl-instantid")
    editor.run()
    editor.shot(tmp_path / f"missing-{palette}.png")
    ink, paper = (
        sum(dialog(editor).evaluate(f"(each) => getComputedStyle(each).{name}.match(/\\d+/g).slice(0, 3).map(Number)"))
        for name in ("color", "backgroundColor")
    )
    assert abs(ink - paper) > 250
    server.http.post("/api/settings", json={"Comfy.ColorPalette": "dark"})
