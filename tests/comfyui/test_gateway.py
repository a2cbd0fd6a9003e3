"""The gateway before a real ComfyUI that it starts itself."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from comfyui.process import Install
from comfyui.runner_support import quick
from gateway.process import ServeProcess
from PIL import Image
from ryla_nodes.client import GatewayClient, Preview

MANIFEST = """
title = "Quick"
summary = "A plain picture."
models = []
[[outputs]]
node = "Result"
kind = "image"
[parameters.color]
type = "int"
node = "Canvas"
input = "color"
default = 255
min = 0
max = 16777215
help = "The colour."
"""


@pytest.fixture(scope="module")
def gateway(comfyui_install: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    root = tmp_path_factory.mktemp("gateway")
    (root / "w" / "quick").mkdir(parents=True)
    (root / "w" / "quick" / "workflow.toml").write_text(MANIFEST, encoding="utf-8")
    (root / "w" / "quick" / "api.json").write_text(json.dumps(quick(0)), encoding="utf-8")
    (root / "w" / "shown").mkdir()
    (root / "w" / "shown" / "workflow.toml").write_text(MANIFEST, encoding="utf-8")
    (root / "w" / "shown" / "api.json").write_text(json.dumps(_shown()), encoding="utf-8")
    base = root / "base"
    for name in ("custom_nodes", "user"):
        (base / name).mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "packs" / "ryla_test_shown.py", base / "custom_nodes")
    arguments = f"--cpu --base-directory {base} --database-url sqlite:///{base}/user/comfyui.db"
    serve = [
        "--start-comfyui", str(comfyui_install.root), "--comfyui-python", str(comfyui_install.python),
        "--comfyui-args", arguments, "--workflow", "quick", "--warm-up", "quick", "--workflow", "shown",
    ]  # fmt: skip
    environment = {"RYLA_WORKFLOWS": str(root / "w"), "RYLA_HOME": str(root / "home")}
    with ServeProcess(root / "state", serve, environment) as one:
        one.until_ready(120)
        yield one


def _shown() -> dict[str, Any]:
    """The same with a node between that shows previews."""
    graph = quick(0)
    (result,) = [node for node in graph.values() if node["class_type"] == "SaveImage"]
    node = {"class_type": "RylaTestShown", "inputs": {"image": result["inputs"]["images"]}, "_meta": {"title": "Shown"}}
    result["inputs"]["images"] = ["shown", 0]
    return {**graph, "shown": node}


def _post(gateway: ServeProcess, color: int) -> httpx.Response:
    return httpx.post(f"{gateway.url}/quick", json={"color": color}, timeout=60, trust_env=False)


def _child(gateway: ServeProcess, state: str = "comfyui.json") -> int:
    record = next(Path(gateway.state).rglob(state))
    return int(json.loads(record.read_text())["pid"])


def test_a_post_gives_a_jpeg_of_what_comfyui_saved_as_png(gateway: ServeProcess) -> None:
    answer = _post(gateway, 0x0000FF)
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.format == "JPEG" and picture.size == (64, 64)
    red, green, blue = picture.getpixel((5, 5))  # type: ignore[misc]
    assert red > 250 and green > 250 and blue < 5
    assert float(answer.headers["x-execution-time-sec"]) > 0 and answer.headers["x-gpu-type"] == "CPU"


def test_previews_of_a_real_comfyui_reach_the_client(gateway: ServeProcess) -> None:
    seen: list[Preview] = []
    with GatewayClient(gateway.url) as client:
        result = client.run("shown", {"color": 0x00FF00}, on_preview=seen.append)
    assert result.ok and 1 <= len(seen) <= 6
    assert {Image.open(io.BytesIO(each.data)).size for each in seen} == {(48, 32)}
    assert {each.type for each in seen} == {"image/jpeg"}


def test_a_killed_gateway_takes_its_comfyui_over(gateway: ServeProcess) -> None:
    before = _child(gateway)
    gateway.kill()
    gateway.start()
    gateway.until_ready(60)
    assert _child(gateway) == before and _post(gateway, 1).status_code == 200


def test_a_killed_comfyui_comes_back(gateway: ServeProcess) -> None:
    before = _child(gateway)
    os.killpg(before, signal.SIGKILL)
    end = time.monotonic() + 5
    while httpx.get(f"{gateway.url}/ready", trust_env=False).status_code == 200:
        assert time.monotonic() < end
        time.sleep(0.1)
    gateway.until_ready(120)
    assert _child(gateway) != before and _post(gateway, 2).status_code == 200


def test_each_gpu_has_a_comfyui_of_its_own(comfyui_install: Install, tmp_path: Path) -> None:
    (tmp_path / "w" / "quick").mkdir(parents=True)
    (tmp_path / "w" / "quick" / "workflow.toml").write_text(MANIFEST, encoding="utf-8")
    (tmp_path / "w" / "quick" / "api.json").write_text(json.dumps(quick(0)), encoding="utf-8")
    base = tmp_path / "base"
    (base / "custom_nodes").mkdir(parents=True)
    serve = [
        "--start-comfyui", str(comfyui_install.root), "--comfyui-python", str(comfyui_install.python), "--gpus", "0,1",
        "--comfyui-args", f"--cpu --base-directory {base} --database-url sqlite:///:memory:", "--workflow", "quick",
    ]  # fmt: skip
    environment = {"RYLA_WORKFLOWS": str(tmp_path / "w"), "RYLA_HOME": str(tmp_path / "home")}
    with ServeProcess(tmp_path / "state", serve, environment) as gateway:
        gateway.until_ready(120)
        for number in ("0", "1"):
            variables = Path(f"/proc/{_child(gateway, f'comfyui-{number}.json')}/environ").read_bytes().split(b"\0")
            assert f"CUDA_VISIBLE_DEVICES={number}".encode() in variables
        end = time.monotonic() + 120
        while not all(engine["up"] for engine in _engines(gateway)):
            assert time.monotonic() < end
            time.sleep(0.2)
        os.killpg(_child(gateway, "comfyui-0.json"), signal.SIGKILL)
        assert all(_post(gateway, number).status_code == 200 for number in range(4))  # The other one goes on.


def _engines(gateway: ServeProcess) -> list[dict[str, Any]]:
    return list(httpx.get(f"{gateway.url}/ready", trust_env=False).json()["engines"])
