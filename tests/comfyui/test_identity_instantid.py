"""InstantID in a real ComfyUI: against the formula applied by hand, against another pack, and both workflows."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shipped_models
from comfyui.conftest import StartComfyUI
from comfyui.process import ComfyUI, Install
from face_models import portrait
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.engines.embedded.server.server import EngineServer
from ryla_nodes.nodes import node_classes
from ryla_nodes.workflows.manifest import load
from ryla_nodes.workflows.workflow import bind

HERE = Path(__file__).parent
PACKS = tuple(HERE / "packs" / name for name in ("ryla_test_small_shapes", "ryla_test_small_sdxl.py"))
# A checkout of cubiq's ComfyUI_InstantID to compare with, and a folder with insightface for a ComfyUI that lacks it.
PEER, SITE = (os.environ.get(name, "") for name in ("RYLA_TEST_INSTANTID_PACK", "RYLA_TEST_SITE_PACKAGES"))
ENVIRON = {"PYTHONPATH": SITE} if SITE else {}
# SDXL's own width instead of a tenth of it, when asked for: RYLA_TEST_SDXL_CHANNELS=320.
NARROW = "RYLA_TEST_SDXL_CHANNELS" not in os.environ
PROBE_LIMIT = 280 if NARROW else 3600
pytestmark = pytest.mark.timeout(PROBE_LIMIT + 20)


@pytest.fixture(scope="session")
def probe(comfyui_install: Install) -> dict[str, Any]:
    environ = {**os.environ, **({"OMP_NUM_THREADS": "1"} if NARROW else {}), **ENVIRON}
    return comfyui_install.probe("instantid_probe.py", *filter(None, [PEER]), timeout=PROBE_LIMIT, environ=environ)


def test_all_seventy_layers_are_patched_on_a_clone(probe: dict[str, Any]) -> None:
    assert probe["layers_hit"] == 70
    assert probe["base_untouched"]
    assert probe["middle_matters"] > 0.05


def test_four_steps_equal_the_formula_applied_module_by_module(probe: dict[str, Any]) -> None:
    assert probe["against_formula"] < 1e-3
    assert probe["against_no_identity"] > 0.1
    assert probe["batch_of_two"] < 1e-3


def test_window_mask_and_precision(probe: dict[str, Any]) -> None:
    assert probe["window_closed"] == probe["mask_empty"] == 0
    assert probe["mask_full"] < 1e-3
    assert probe["half_dtype"] == "torch.float16"


def test_patches_of_others_go_on_working(probe: dict[str, Any]) -> None:
    assert probe["chained_block"] < 1e-3
    assert probe["chained_layer"] == pytest.approx(1, abs=1e-4)


def test_the_adapter_is_let_go_and_a_second_run_needs_it_not(probe: dict[str, Any]) -> None:
    assert probe["adapter_tensors_resident"] == 0
    assert probe["second_run_resampler_runs"] == 0


def test_what_does_not_belong_together_is_refused_in_one_line(probe: dict[str, Any]) -> None:
    assert probe["flux_model"].startswith("not_sdxl: InstantID's weights are for SDXL; this MODEL is Flux.")
    assert probe["wrong_control_net"].startswith("wrong_controlnet:") and "2816" in probe["wrong_control_net"]
    assert probe["t2i_adapter"].startswith("wrong_controlnet:")


@pytest.mark.skipif(not PEER, reason="RYLA_TEST_INSTANTID_PACK names no checkout of ComfyUI_InstantID")
def test_but_for_the_middle_block_it_is_the_known_pack(probe: dict[str, Any]) -> None:
    assert probe["peer_without_middle"] < 1e-3
    assert probe["peer_noise_without_middle"] < 1e-3
    assert probe["peer_as_it_is"] > 0.05
    assert probe["peer_on_ours"] > 0.01


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RYLA_HOME with every shipped model."""
    home = tmp_path_factory.mktemp("home")
    shipped_models.flux(home / "models")
    shipped_models.identity(home / "models")
    return home


@pytest.fixture
def server(start_comfyui: StartComfyUI, comfyui_install: Install, home: Path) -> ComfyUI:
    command = [str(comfyui_install.python), "-c", "import insightface"]
    if subprocess.run(command, env={**os.environ, **ENVIRON}, capture_output=True).returncode:
        pytest.skip("this ComfyUI's Python has no insightface (and RYLA_TEST_SITE_PACKAGES names no folder with it)")
    return start_comfyui(packs=PACKS, models=(home / "models",), environ=ENVIRON)


def graph(name: str, photo: Path, **values: Any) -> dict[str, Any]:
    workflow = load(name, settings.load({}))
    bound = bind(workflow, {"prompt": shipped_models.FACE, "reference_image": photo, "seed": 1, **values})
    for upload in bound.uploads:
        bound = bound.with_image(upload.node_id, upload.input, photo.name)
    for node in bound.graph.values():
        node["inputs"].update({"format": "png"} if node["class_type"] == "RYLA_SaveImage" else {})
    return bound.graph


CASES = {
    "sdxl-instantid": {"width": 256, "height": 256, "steps": 6},
    "flux-instantid": {"width": 256, "height": 256, "steps": 4, "face_steps": 4, "face_pixels": 256},
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_workflow_runs_and_the_embedded_engine_makes_the_same_picture(
    name: str, server: ComfyUI, home: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    portrait(3, 320, 320, face=0.5).save(photo)
    prompt = graph(name, photo, **CASES[name])
    (server.base / "input").mkdir(exist_ok=True)
    shutil.copy(photo, server.base / "input" / photo.name)
    outputs = server.succeed(prompt)
    result = next(key for key, node in prompt.items() if node["class_type"] == "RYLA_SaveImage")
    theirs = np.asarray(Image.open(server.files(outputs, result)[0]), float)
    score = next(output["face_similarity"][0] for output in outputs.values() if "face_similarity" in output)

    import httpx

    with EngineServer(home, node_classes()) as engine:
        shutil.copy(photo, engine.files.folder("input") / photo.name)
        prompt_id = httpx.post(f"{engine.url}/prompt", json={"prompt": prompt}, timeout=60).json()["prompt_id"]
        history: dict[str, Any] = {}
        while prompt_id not in history:
            history = httpx.get(f"{engine.url}/history/{prompt_id}", timeout=60).json()
        entry = history[prompt_id]
        assert entry["status"]["status_str"] == "success", entry["status"]
        saved = entry["outputs"][result]["images"][0]
        ours = np.asarray(Image.open(engine.files.folder("output") / saved["filename"]), float)
    assert ours.shape == theirs.shape and theirs.std() > 20
    psnr = 10 * np.log10(255**2 / max(((ours - theirs) ** 2).mean(), 1e-9))
    assert psnr >= 45, f"{psnr:.1f} dB"
    own = next(output["face_similarity"][0] for output in entry["outputs"].values() if "face_similarity" in output)
    assert own == pytest.approx(score, abs=0.02)


def test_without_a_face_the_second_stage_is_not_even_asked_for(server: ComfyUI, tmp_path: Path) -> None:
    """The second stage is broken on purpose: a Flux model goes into RYLA_ApplyInstantID."""
    photo = tmp_path / "photo.png"
    portrait(3, 320, 320, face=0.5).save(photo)
    shutil.copy(photo, server.base / "input" / photo.name)
    prompt = graph("flux-instantid", photo, on_no_face="pass", **CASES["flux-instantid"])
    kinds = {node["class_type"]: key for key, node in prompt.items()}
    prompt[kinds["RYLA_ApplyInstantID"]]["inputs"]["model"] = [kinds["RYLA_FluxLoader"], 0]
    prompt["plain"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 0x405060},
    }
    for name in ("RYLA_FaceCrop", "RYLA_FaceComposite"):
        prompt[kinds[name]]["inputs"]["image"] = ["plain", 0]
    outputs = server.succeed(prompt)
    saved = np.asarray(Image.open(server.files(outputs, kinds["RYLA_SaveImage"])[0]))
    assert np.all(saved == (0x40, 0x50, 0x60))
    assert any(output.get("face_passed") == [False] for output in outputs.values())
    # With a face the second stage runs, and says in one line what is wrong with it.
    photo_node = next(key for key, node in prompt.items() if node["class_type"] == "LoadImage")
    prompt[kinds["RYLA_FaceCrop"]]["inputs"]["image"] = [photo_node, 0]
    error = server.fail(prompt)
    assert error["node_type"] == "RYLA_ApplyInstantID"
    assert error["exception_message"].startswith("InstantID's weights are for SDXL; this MODEL is Flux.")
