"""``ryla serve`` as it is used: a process, the embedded engine in a second one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from gateway.process import MAIN, ServeProcess
from gateway.served import photo, until
from PIL import Image
from ryla_nodes.cli.own_engines import input_folder

SHAPE = {"prompt": "a red star at the top left, navy background", "width": 256, "height": 256, "steps": 2, "seed": 7}


def _post(url: str) -> httpx.Response:
    return httpx.post(f"{url}/flux-dev", json=SHAPE, timeout=120, trust_env=False)


def _ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for whoever adopted it to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_embedded_engine_gives_a_jpeg_and_goes_on_over_a_kill(tmp_path: Path, tiny_home: Path) -> None:
    environment = {"RYLA_HOME": str(tiny_home), "OMP_NUM_THREADS": "1"}
    with ServeProcess(tmp_path / "state", ["--workflow", "flux-dev"], environment) as gateway:
        gateway.until_ready()
        answer = _post(gateway.url)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-seed"] == "7" and Image.open(io.BytesIO(answer.content)).format == "JPEG"
        record = tmp_path / "state" / "engines" / "embedded.json"
        engine = json.loads(record.read_text())
        gateway.kill()
        os.kill(engine["pid"], 0)  # It goes on, and the next gateway takes it over.
        gateway.start()
        assert json.loads(record.read_text()) == engine
        gateway.until_ready()
        again = _post(gateway.url)
        assert again.status_code == 200 and again.content == answer.content
        assert gateway.stop() == 0
    assert not record.exists() and _ended(engine["pid"])


ECHO = """
title = "Echo"
summary = "The photo as it is."
models = []
[[outputs]]
node = "Result"
kind = "image"
[parameters.reference_image]
type = "image"
node = "Photo"
input = "image"
required = true
help = "The photo."
"""


def test_an_engine_of_its_own_keeps_no_upload(tmp_path: Path, tiny_home: Path) -> None:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Photo"}},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "echo"},
            "_meta": {"title": "Result"},
        },
    }
    (tmp_path / "workflows" / "echo").mkdir(parents=True)
    (tmp_path / "workflows" / "echo" / "workflow.toml").write_text(ECHO)
    (tmp_path / "workflows" / "echo" / "api.json").write_text(json.dumps(graph))
    environment = {"RYLA_HOME": str(tiny_home), "RYLA_WORKFLOWS": str(tmp_path / "workflows"), "OMP_NUM_THREADS": "1"}
    kept = tiny_home / "input" / "ryla"
    before = set(kept.iterdir()) if kept.exists() else set()
    with ServeProcess(tmp_path / "state", ["--workflow", "echo"], environment) as gateway:
        gateway.until_ready()
        for _ in range(2):  # The same photo again has to be uploaded again.
            files = {"reference_image": ("me.png", photo())}
            answer = httpx.post(f"{gateway.url}/echo", files=files, timeout=60, trust_env=False)
            assert answer.status_code == 200, answer.text
            until(lambda: set(kept.iterdir()) == before)


@pytest.mark.parametrize("engines", [[], ["--server", "http://127.0.0.1:1"]])
def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path, engines: list[str]) -> None:
    command = [sys.executable, "-c", MAIN, "serve", "--json", "--port", "0", "--state", "/proc/ryla", *engines]
    environment = {**os.environ, "RYLA_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert (done.returncode, error["code"]) == (7, "not_writable") and "/proc/ryla" in error["message"]


def test_a_gpu_that_is_not_there_is_refused_by_its_number(tmp_path: Path) -> None:
    """With an nvidia-smi that tells of one GPU."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho NVIDIA L40S, 46068\n")
    smi.chmod(0o755)
    comfyui = tmp_path / "ComfyUI"
    for name in ("main.py", "nodes.py", "comfy", "comfy_extras"):
        (comfyui / name).mkdir(parents=True)
    serve = ["serve", "--json", "--port", "0", "--state", str(tmp_path / "state"), "--start-comfyui", str(comfyui)]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *serve, "--gpus", "0,1"],
        env={**os.environ, "RYLA_HOME": str(tmp_path), "PATH": f"{smi.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (3, "gpu_missing")
    assert error["message"] == "There is no GPU 1 on this machine: it has 0 (NVIDIA L40S)."


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ("--cpu", "/comfy/input"),
        ("--base-directory /data --cpu", "/data/input"),
        ("--cpu --input-directory in", "/comfy/in"),
        ("--input-directory /in --base-directory /data", "/in"),
    ],
)
def test_where_a_started_comfyui_keeps_uploads(arguments: str, folder: str) -> None:
    assert input_folder(Path("/comfy"), arguments.split()) == Path(folder)
