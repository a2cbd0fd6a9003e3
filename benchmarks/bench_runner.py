"""What the runner adds to ComfyUI's own execution time, beside comfy-cli's ``comfy run --wait`` on the same graph.

    COMFYUI_PATH=/path/to/ComfyUI COMFYUI_PYTHON=/path/to/its/python python benchmarks/bench_runner.py

Added latency: from the call to the picture in hand, minus the time between execution_start and execution_success by
the engine's own clock. The graph is EmptyImage -> ImageInvert -> SaveImage on the CPU; "slow" puts a chain of
ImageScale nodes before it (some seconds; ComfyUI's own garbage collection then adds up to 0.2 s every 10 s). COMFY_CLI
names the ``comfy`` program; it is looked for on the PATH otherwise.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from ryla_nodes.client import Client, from_graph
from ryla_nodes.client.address import Address
from ryla_nodes.client.comfyui_process import ComfyUIProcess

RUNS, LONG_RUNS, PROCESS_RUNS = 60, 8, 8
WORKFLOW = """
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
help = "Colour."
"""


def graph(scales: int = 0) -> dict[str, Any]:
    """The graph with a colour of its own, so that nothing is cached; ``scales`` slow nodes before it."""
    nodes: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "_meta": {"title": "Canvas"},
              "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": random.randrange(1 << 24)}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Invert"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "bench"},
              "_meta": {"title": "Result"}},
    }  # fmt: skip
    source = "1"
    for number in range(scales):
        size = 2048 if number % 2 == 0 else 64
        inputs = {"image": [source, 0], "upscale_method": "lanczos", "width": size, "height": size, "crop": "disabled"}
        nodes[f"s{number}"] = {"class_type": "ImageScale", "inputs": inputs}
        source = f"s{number}"
    nodes["2"]["inputs"]["image"] = [source, 0]
    return nodes


def with_client(url: str, runs: int, scales: int) -> list[float]:
    """Added seconds of each run in this process; the connection is warm, as in a gateway or a batch."""
    added = []
    with Client(url) as client:
        client.run(from_graph(graph(scales), ["3"]))
        for _ in range(runs):
            began = time.perf_counter()
            result = client.run(from_graph(graph(scales), ["3"], name=f"bench{scales}"))
            assert result.timings.execution is not None
            added.append(time.perf_counter() - began - result.timings.execution)
    return added


@contextmanager
def dead_websocket() -> Iterator[None]:
    """No websocket can be opened."""
    original = Address.websocket
    Address.websocket = lambda self, client_id: "ws://127.0.0.1:1/ws"  # type: ignore[method-assign]
    try:
        yield
    finally:
        Address.websocket = original  # type: ignore[method-assign]


def with_process(url: str, command: Callable[[Path], list[str]], environ: dict[str, str]) -> list[float]:
    """Added seconds of each run of a program: its start and its imports count."""
    added = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.json"
        for _ in range(PROCESS_RUNS):
            path.write_text(json.dumps(graph()))
            began = time.perf_counter()
            done = subprocess.run(command(path), cwd=folder, env=environ, capture_output=True, text=True)
            took = time.perf_counter() - began
            if done.returncode != 0:
                raise SystemExit(f"{command(path)} failed:\n{done.stdout}{done.stderr}")
            added.append(took - last_execution(url))
    return added


def last_execution(url: str) -> float:
    """The engine's execution time of its last job, in seconds."""
    (entry,) = httpx.get(f"{url}/history", params={"max_items": 1}, trust_env=False).json().values()
    stamps = {name: data["timestamp"] for name, data in entry["status"]["messages"]}
    return float(stamps["execution_success"] - stamps["execution_start"]) / 1000


def measure(url: str, environ: dict[str, str], comfy: str | None) -> Iterator[tuple[str, list[float]]]:
    """Each line of the table."""
    yield "Client, websocket open", with_client(url, RUNS, 0)
    yield "Client, websocket open, slow graph", with_client(url, LONG_RUNS, 24)
    with dead_websocket():
        yield "Client, websocket dead", with_client(url, RUNS // 2, 0)
        yield "Client, websocket dead, slow graph", with_client(url, LONG_RUNS, 24)
    ryla = [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", "run", "blank", "--server", url]
    yield (
        "ryla run (a process each)",
        with_process(url, lambda _: [*ryla, "--color", str(random.randrange(1 << 24)), "-o", "a.png"], environ),
    )
    if comfy is not None:
        host, port = url.removeprefix("http://").split(":")
        yield (
            "comfy run --wait (a process each)",
            with_process(
                url,
                lambda path: [comfy, "run", "--workflow", str(path), "--wait", "--host", host, "--port", port],
                environ,
            ),
        )


def main() -> None:
    root = os.environ.get("COMFYUI_PATH")
    if root is None:
        raise SystemExit(
            print("skipped: set COMFYUI_PATH (and COMFYUI_PYTHON) to measure the runner on a real ComfyUI")
        )
    comfy = os.environ.get("COMFY_CLI") or shutil.which("comfy")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("custom_nodes", "user", "workflows/blank"):
            (base / name).mkdir(parents=True)
        (base / "workflows/blank/workflow.toml").write_text(WORKFLOW)
        (base / "workflows/blank/api.json").write_text(json.dumps(graph()))
        environ = os.environ | {"RYLA_WORKFLOWS": str(base / "workflows")}
        arguments = ("--cpu", "--base-directory", folder, "--database-url", f"sqlite:///{folder}/user/comfyui.db")
        python = Path(os.environ.get("COMFYUI_PYTHON", sys.executable))
        with ComfyUIProcess(Path(root), python, arguments=(*arguments, "--disable-api-nodes")) as comfyui:
            version = httpx.get(f"{comfyui.url}/system_stats", trust_env=False).json()["system"]["comfyui_version"]
            table = Table(title=f"Added to ComfyUI {version}'s own execution time, in ms", title_justify="left")
            for column in ("", "runs", "p50", "p95", "worst"):
                table.add_column(column, justify="left" if not column else "right")
            for name, added in measure(comfyui.url, environ, comfy):
                p95 = statistics.quantiles(added, n=20)[-1]
                figures = (statistics.median(added), min(p95, max(added)), max(added))
                table.add_row(name, str(len(added)), *(f"{figure * 1000:.1f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
