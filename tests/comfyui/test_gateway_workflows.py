"""Every workflow as an endpoint of the gateway before a real ComfyUI with small weights."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import shipped_models
import small_models
from comfyui.conftest import StartComfyUI
from comfyui.process import Install
from face_models import portrait
from gateway.served import Served, served
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.gateway.options import Limits, Options

HERE = Path(__file__).parent
PACKS = tuple(HERE / "packs" / name for name in ("ryla_test_small_shapes", "ryla_test_small_sdxl.py"))
SITE = os.environ.get("RYLA_TEST_SITE_PACKAGES", "")
SMALL = {"prompt": shipped_models.FACE, "width": 256, "height": 256, "steps": 4, "seed": 7}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    shipped_models.flux(home / "models")
    shipped_models.identity(home / "models")
    small_models.kohya(home / "models" / "loras" / "anna.safetensors")
    return home


@pytest.fixture(scope="module")
def gateway(start_comfyui: StartComfyUI, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environ = {"PYTHONPATH": SITE} if SITE else {}
    server = start_comfyui(packs=PACKS, models=(home / "models",), environ=environ)
    root = tmp_path_factory.mktemp("gateway")
    variables = {"RYLA_HOME": str(root / "home")}
    options = Options(
        settings.load(variables | {"RYLA_GPU_USD_PER_HOUR": "3.6"}),
        root / "state",
        (server.url,),
        ("flux-dev", "flux-lora", "flux-instantid", "sdxl-instantid"),
        require_models=False,
        limits=Limits(timeout=240.0, free_bytes=1),
    )
    with served(options) as one:
        one.http.timeout = 240.0
        yield one


def _is_jpeg(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.format == "JPEG" and picture.size == (256, 256)


def test_flux_dev(gateway: Served) -> None:
    answer = gateway.post("flux-dev", **SMALL)
    assert answer.status_code == 200, answer.text
    assert _is_jpeg(answer.content) and answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-seed"] == "7" and answer.headers["x-gpu-type"] == "CPU"
    seconds = float(answer.headers["x-execution-time-sec"])
    assert float(answer.headers["x-cost-usd"]) == pytest.approx(seconds * 0.001, abs=2e-6)
    assert "x-lora-used" not in answer.headers and "x-face-similarity" not in answer.headers


def test_flux_lora(gateway: Served) -> None:
    plain = gateway.post("flux-dev", **SMALL)
    answer = gateway.post("flux-lora", **SMALL, lora_id="anna")
    assert answer.status_code == 200, answer.text
    assert _is_jpeg(answer.content) and answer.headers["x-lora-used"] == "anna"
    assert answer.content != plain.content
    missing = gateway.post("flux-lora", **SMALL, lora_id="nobody")
    assert missing.json()["code"] == "lora_not_found" and str(gateway.options.state) not in missing.text


@pytest.mark.parametrize("name", ["flux-instantid", "sdxl-instantid"])
def test_a_character_from_a_photo(name: str, gateway: Served, comfyui_install: Install, tmp_path: Path) -> None:
    environ = {**os.environ, **({"PYTHONPATH": SITE} if SITE else {})}
    if subprocess.run(
        [str(comfyui_install.python), "-c", "import insightface"], env=environ, capture_output=True
    ).returncode:
        pytest.skip("this ComfyUI's Python has no insightface (and RYLA_TEST_SITE_PACKAGES names no folder with it)")
    portrait(3, 320, 320, face=0.5).save(tmp_path / "photo.png")
    face = {"face_steps": 2, "face_pixels": 256} if name == "flux-instantid" else {}
    files = {"reference_image": ("me.png", (tmp_path / "photo.png").read_bytes())}
    answer = gateway.http.post(f"/{name}", data={**SMALL, **face}, files=files)
    assert answer.status_code == 200, answer.text
    assert _is_jpeg(answer.content) and -1 <= float(answer.headers["x-face-similarity"]) <= 1
