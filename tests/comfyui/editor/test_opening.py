"""The editor's own list of missing models, when a graph is opened: what our nodes lack, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_flux
from comfyui.conftest import StartComfyUI
from comfyui.editor import scene
from comfyui.editor.conftest import Edit
from comfyui.editor.editor import Editor, read
from comfyui.process import REPO, Install
from editor_graph import essence
from ryla_nodes.engines.embedded.inference import tokenizers
from safetensors.torch import load_file, save_file

FREE = (
    "clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors", "RealVisXL_V5.0_fp16.safetensors",
    "instantid/diffusion_pytorch_model.safetensors",
)  # fmt: skip
GATED = "flux1-dev.safetensors"
NO_DOWNLOAD = ("ip-adapter.bin", "glintr100.onnx", "scrfd_10g_bnkps.onnx", "w600k_r50.onnx")
LISTS_NODES = (0, 33)
"""From here on the editor looks for missing files in the nodes, and lists what it cannot download, too."""
TEXT_TO_IMAGE = "1 FLUX.1 Dev, text to image"


def listed(editor: Editor) -> str:
    """The editor's list of missing models, opened where it has to be; empty without one."""
    editor.settle(3)
    details = editor.page.get_by_role("button", name="View details")
    if details.count():
        details.click()
        editor.settle(1)
    text = editor.shown()
    return text[text.index("Missing Models") :] if "Missing Models" in text else ""


def downloads(editor: Editor, name: str) -> int:
    """How many buttons there are to download a file."""
    if editor.server.install.version >= LISTS_NODES:
        return editor.page.get_by_role("button", name=f"Download {name}").count()
    return editor.page.locator(".comfy-missing-models li", has_text=name).get_by_role("button", name="Download").count()


def check_all_is_told(editor: Editor) -> None:
    told = listed(editor)
    for name in FREE:
        assert told.count(name) == 1 and downloads(editor, name) == 1, name
    later = editor.server.install.version >= LISTS_NODES
    assert [name in told for name in (GATED, *NO_DOWNLOAD)] == [later] * 5


def test_what_auto_lacks_is_in_the_editors_own_list(edit: Edit, start_comfyui: StartComfyUI, tmp_path: Path) -> None:
    editor = edit(start_comfyui(route="clone"))
    editor.open_template("4 FLUX.1 Dev with the face of a photo")
    check_all_is_told(editor)
    scene.shot(editor, tmp_path, "opened")
    assert essence(editor.prompt()) == essence(read(REPO / "workflows" / "flux-instantid" / "api.json"))
    saved = editor.graph()
    assert "ryla_missing" not in str(saved), "what stands for a missing file is not saved"


@pytest.mark.parametrize("vue", [False, True])
def test_a_workflow_of_before_is_told_of_as_well(
    edit: Edit, start_comfyui: StartComfyUI, comfyui_install: Install, vue: bool
) -> None:
    if comfyui_install.version < LISTS_NODES:
        pytest.skip("Does not apply: this ComfyUI lists what the file of the workflow lists.")
    editor = edit(start_comfyui(route="clone"), {"Comfy.VueNodes.Enabled": vue})
    saved = read(REPO / "tests" / "data" / "saved_workflows" / "flux-instantid.json")
    editor.load(saved)
    check_all_is_told(editor)
    shown = editor.js("() => [...document.querySelectorAll('[data-node-id]')].map((each) => each.innerText).join()")
    assert bool(shown) is vue and "ryla_missing" not in shown


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small FLUX weights as files that somebody may have: fp8 names, and a VAE of a name that tells nothing."""
    made = tiny_flux.ensure(tmp_path_factory.mktemp("made"))
    folder = tmp_path_factory.mktemp("variants")
    assert made.clip_l and made.t5xxl and made.vae
    for source, target in (
        (made.transformer, "diffusion_models/flux1-dev-fp8.safetensors"),
        (made.clip_l, "text_encoders/clip_l.safetensors"),
        (made.t5xxl, "text_encoders/t5xxl_fp8_e4m3fn.safetensors"),
        (made.vae, "vae/some-vae.safetensors"),
    ):
        (folder / target).parent.mkdir(exist_ok=True)
        save_file(load_file(source), folder / target)  # Without the mark of made-up weights.
        if tokenizers.beside(source).is_file():
            shutil.copy(tokenizers.beside(source), tokenizers.beside(folder / target))
    return folder


def run_small(editor: Editor) -> dict[str, Any]:
    small = {"steps": 1, "width": 128, "height": 128}
    editor.js(scene.MAKE_SMALL, small)
    editor.run()
    return editor.finish()


def test_another_variant_is_no_alarm_and_runs(edit: Edit, start_comfyui: StartComfyUI, variants: Path) -> None:
    server = start_comfyui(route="clone", packs=scene.PACKS, models=(variants,))
    editor = edit(server)
    editor.open_template(TEXT_TO_IMAGE)
    assert listed(editor) == ""
    entry = run_small(editor)
    assert entry["status"]["status_str"] == "success", entry["status"]
    took = scene.text_on(editor, "RYLA_FluxLoader")
    for name in ("flux1-dev-fp8.safetensors", "t5xxl_fp8_e4m3fn.safetensors", "some-vae.safetensors"):
        assert name in took


def test_what_has_come_leaves_the_list(edit: Edit, start_comfyui: StartComfyUI, tmp_path: Path) -> None:
    """By the editor's own R, in the graph that is open; in 0.3.64, whose list is a dialog, when it is opened again."""
    server = start_comfyui(route="clone", models=(tmp_path,))
    editor = edit(server)
    editor.open_template(TEXT_TO_IMAGE)
    assert "ae.safetensors" in listed(editor)
    made = tiny_flux.ensure(tmp_path / "made")
    assert made.vae
    (tmp_path / "vae").mkdir()
    made.vae.rename(tmp_path / "vae" / "ae.safetensors")
    if server.install.version >= LISTS_NODES:
        editor.page.get_by_role("button", name=re.compile("Refresh")).first.click()
        editor.page.get_by_role("button", name="Download ae.safetensors").wait_for(state="detached")
    else:
        editor.page.keyboard.press("Escape")
        editor.command("Comfy.RefreshNodeDefinitions")
        editor.open_template(TEXT_TO_IMAGE)
    told = listed(editor)
    assert "clip_l.safetensors" in told and "ae.safetensors" not in told
