"""``ryla run`` with a real ComfyUI: one that it starts, one that dies under it, a batch that outlives its runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from comfyui.process import Install
from comfyui.runner_support import free_port, process
from PIL import Image

MANIFEST = """
title = "Blank"
summary = "EmptyImage -> ImageInvert -> SaveImage."
models = []
[[outputs]]
node = "Result"
kind = "image"
[parameters.color]
type = "int"
node = "Canvas"
input = "color"
default = 0
min = 0
max = 16777215
help = "The colour before it is inverted."
[parameters.size]
type = "int"
node = "Big"
input = "width"
default = 64
min = 16
max = 4096
help = "Width of the picture in between: how slow it is."
[parameters.die]
type = "enum"
node = "Die"
input = "how"
default = "no"
choices = ["no", "exit"]
help = "Whether the engine's process ends."
"""
DIE = """
import os, sys

class Die:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "how": (["no", "exit"],)}}

    def run(self, image, how):
        if how == "exit":
            print("CUDA error: an illegal memory access was encountered", flush=True)
            os._exit(3)
        return (image,)

NODE_CLASS_MAPPINGS = {"RunnerTestDie": Die}
"""


def _scale(source: str, size: int, title: str) -> dict[str, Any]:
    inputs = {"image": [source, 0], "upscale_method": "bicubic", "width": size, "height": size, "crop": "disabled"}
    return {"class_type": "ImageScale", "inputs": inputs, "_meta": {"title": title}}


GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
          "_meta": {"title": "Canvas"}},
    "2": _scale("1", 64, "Big"),
    "3": _scale("2", 64, "Small"),
    "4": {"class_type": "RunnerTestDie", "inputs": {"image": ["3", 0], "how": "no"}, "_meta": {"title": "Die"}},
    "5": {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}, "_meta": {"title": "Invert"}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "cli"},
          "_meta": {"title": "Result"}},
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base directory for ComfyUI with a pack that ends the process, and beside it a workflow that uses it."""
    for name in ("base/custom_nodes", "base/user", "workflows/blank", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "base/custom_nodes/runner_test_die.py").write_text(DIE)
    (tmp_path / "workflows/blank/workflow.toml").write_text(MANIFEST)
    (tmp_path / "workflows/blank/api.json").write_text(json.dumps(GRAPH))
    return tmp_path / "base"


def _ryla(base: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", "run", "blank", *arguments]


def _environ(base: Path) -> dict[str, str]:
    return os.environ | {"RYLA_WORKFLOWS": str(base.parent / "workflows")}


def _run(base: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _ryla(base, *arguments), cwd=base.parent, env=_environ(base), capture_output=True, text=True, timeout=240
    )


def _started(base: Path, install: Install) -> list[str]:
    arguments = f"--cpu --base-directory {base} --database-url sqlite:///{base}/user/comfyui.db --disable-api-nodes"
    python = ["--comfyui-python", str(install.python)]
    return ["--start-comfyui", str(install.root), *python, "--comfyui-args", arguments]


def test_it_starts_a_comfyui_and_stops_it(base: Path, comfyui_install: Install) -> None:
    done = _run(base, *_started(base, comfyui_install), "--color", "255", "-o", "out/a.png", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    body = json.loads(done.stdout)
    with Image.open(base.parent / "out/a.png") as picture:
        assert picture.getpixel((3, 3)) == (255, 255, 0)
    # It is gone: nobody listens there any more.
    again = _run(base, "--server", body["server"])
    assert again.returncode == 4 and "engine_unreachable" in again.stderr


def test_a_comfyui_that_dies_is_reported_with_the_end_of_its_log(base: Path, comfyui_install: Install) -> None:
    began = time.monotonic()
    done = _run(base, *_started(base, comfyui_install), "--die", "exit", "-o", "out/a.png")
    assert done.returncode == 4 and "comfyui_crashed" in done.stderr
    assert "ended with status 3" in done.stderr and "illegal memory access" in done.stderr
    assert time.monotonic() - began < 60 and not list((base.parent / "out").iterdir())


def test_a_comfyui_that_cannot_start_says_why(base: Path, comfyui_install: Install) -> None:
    arguments = _started(base, comfyui_install)
    done = _run(base, *arguments[:-1], "--no-such-argument")
    assert done.returncode == 4 and "comfyui_start_failed" in done.stderr and "--no-such-argument" in done.stderr
    done = _run(base, "--start-comfyui", str(base))
    assert done.returncode == 4 and "is not the folder of a ComfyUI" in done.stderr


def test_a_batch_outlives_its_runner(base: Path, comfyui_install: Install) -> None:
    """Killed with -9 in the middle and started again: ComfyUI has run each row once."""
    rows = [{"color": number * 1000, "size": 1500 + number} for number in range(24)]
    (base.parent / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with process(comfyui_install, base, free_port()) as running:
        arguments = ["--batch", "rows.jsonl", "-o", "out/{index:03}.png", "--server", running.url]
        child = subprocess.Popen(_ryla(base, *arguments), cwd=base.parent, env=_environ(base))
        results = base.parent / "out/results.jsonl"
        end = time.monotonic() + 60
        while not results.exists() or results.read_text().count('"succeeded"') < 6:
            assert time.monotonic() < end and child.poll() is None
            time.sleep(0.01)
        child.kill()
        child.wait()
        assert results.read_text().count('"succeeded"') < 24
        done = _run(base, *arguments, "--contact-sheet", "out/sheet.png")
        assert done.returncode == 0, done.stderr
    made = sorted((base.parent / "out").glob("0*.png"))
    assert len(made) == 24 and len(list((base / "output").glob("cli_*.png"))) == 24
    for number, file in enumerate(made):
        with Image.open(file) as picture:
            color = 0xFFFFFF - rows[number]["color"]
            wanted = (color >> 16, color >> 8 & 255, color & 255)
            found: Any = picture.getpixel((3, 3))
            assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 2  # scaling rounds
    assert (base.parent / "out/sheet.png").stat().st_size > 0
