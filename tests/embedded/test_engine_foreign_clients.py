"""Other people's clients of ComfyUI run a graph on the embedded engine, unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from embedded.engine_client import Engine, node, picture
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.engines.embedded.server.server import EngineServer
from ryla_nodes.nodes import node_classes

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture(scope="module")
def shipping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    """An engine with every node, and no other models than the small ones."""
    home = tmp_path_factory.mktemp("shipping")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        with EngineServer(home, node_classes(), settings=settings.load({"RYLA_HOME": str(home)})) as started:
            yield started


def shipped(name: str) -> dict[str, Any]:
    """A workflow's graph as it is in the repository, but small and quick."""
    graph: dict[str, Any] = json.loads((REPO / "workflows" / name / "api.json").read_text())
    for each in graph.values():
        small = {"width": 256, "height": 256, "steps": 2}
        each["inputs"] |= {key: small[key] for key in small.keys() & each["inputs"].keys()}
    return graph


def titled(graph: dict[str, Any]) -> dict[str, Any]:
    return {key: {**each, "_meta": {"title": each["class_type"]}} for key, each in graph.items()}


class ComfyCli:
    """comfy-cli against one engine."""

    def __init__(self, engine: EngineServer, home: Path) -> None:
        beside = str(Path(sys.executable).parent)
        program = os.environ.get("COMFY_CLI") or shutil.which("comfy") or shutil.which("comfy", path=beside)
        if program is None:
            pytest.skip("comfy-cli is not installed: pip install comfy-cli, or set COMFY_CLI to the program")
        self.program = program
        self.home = home
        self.server = ("--host", "127.0.0.1", "--port", engine.url.rsplit(":", 1)[1])

    def call(self, *arguments: str, graph: dict[str, Any]) -> list[dict[str, Any]]:
        """Run a command of comfy-cli; the JSON objects that it printed."""
        file = self.home / "api.json"
        file.write_text(json.dumps(graph))
        command = [self.program, "--skip-prompt", "--json", *arguments, "--workflow", str(file), *self.server]
        environment = os.environ | {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home)}
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def comfy_cli(engine: Engine, tmp_path: Path) -> ComfyCli:
    return ComfyCli(engine, tmp_path)


def test_comfy_cli_runs_a_graph(comfy_cli: ComfyCli, engine: Engine) -> None:
    told = comfy_cli.call("run", "--wait", graph=titled(picture(color=0x0000FF, prefix="foreign")))
    end = told[-1]
    assert end["ok"] and end["data"]["status"] == "completed" and end["data"]["executed_node_ids"] == ["1", "2", "3"]
    file = engine.http.get(end["data"]["outputs"][0]).raise_for_status().content
    assert (np.asarray(Image.open(BytesIO(file))) == (255, 255, 0)).all()


def test_comfy_cli_runs_a_cached_graph_again(comfy_cli: ComfyCli) -> None:
    graph = titled(picture(color=0x00FF00, prefix="cached"))
    outputs = [comfy_cli.call("run", "--wait", graph=graph)[-1]["data"]["outputs"] for _ in range(2)]
    assert outputs[0] == outputs[1] != []


def test_comfy_cli_understands_a_failure(comfy_cli: ComfyCli) -> None:
    graph = {"1": node("RylaTest_Text", text="words", fail=1), "2": node("RylaTest_Show", value=["1", 0])}
    end = comfy_cli.call("run", "--wait", graph=titled(graph))[-1]
    assert end["ok"] is False and "no words" in json.dumps(end)


def test_comfy_cli_understands_a_refused_graph(comfy_cli: ComfyCli) -> None:
    end = comfy_cli.call("run", "--wait", graph=titled(picture(size=0)))[-1]
    assert end["ok"] is False and "below_min" in json.dumps(end)


def test_comfy_cli_validates_against_the_node_list(comfy_cli: ComfyCli) -> None:
    assert comfy_cli.call("workflow", "validate", graph=titled(picture()))[-1]["ok"] is True
    wrong = titled(picture())
    wrong["2"]["class_type"] = "ImageInverted"
    assert comfy_cli.call("workflow", "validate", graph=wrong)[-1]["ok"] is False


@pytest.mark.parametrize("name", ["flux-dev", "flux-lora"])
def test_comfy_cli_runs_a_shipped_workflow(name: str, shipping: EngineServer, tmp_path: Path) -> None:
    end = ComfyCli(shipping, tmp_path).call("run", "--wait", graph=shipped(name))[-1]
    assert end["ok"], end
    made = Image.open(BytesIO(httpx.get(end["data"]["outputs"][0], trust_env=False).content))
    assert made.format == "JPEG" and made.size == (256, 256)


def test_comfy_api_simplified_runs_a_shipped_workflow(shipping: EngineServer) -> None:
    simplified = pytest.importorskip("comfy_api_simplified", reason="pip install comfy-api-simplified")
    workflow = simplified.ComfyWorkflowWrapper(shipped("flux-dev"))
    workflow.set_node_param("Prompt", "text", "a fox")
    workflow.set_node_param("Sampler", "seed", 7)
    pictures = simplified.ComfyApiWrapper(shipping.url).queue_and_wait_images(workflow, "Result")
    assert [Image.open(BytesIO(data)).size for data in pictures.values()] == [(256, 256)]


def test_comfy_api_simplified_uploads_and_runs(engine: Engine, tmp_path: Path) -> None:
    simplified = pytest.importorskip("comfy_api_simplified", reason="pip install comfy-api-simplified")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (12, 8), (250, 200, 100)).save(photo)
    api = simplified.ComfyApiWrapper(engine.url)
    workflow = simplified.ComfyWorkflowWrapper(
        titled(
            {
                "1": node("LoadImage", image=""),
                "2": node("ImageInvert", image=["1", 0]),
                "3": node("SaveImage", images=["2", 0], filename_prefix="simple"),
            }
        )
    )
    uploaded = api.upload_image(str(photo), subfolder="theirs")
    workflow.set_node_param("LoadImage", "image", f"{uploaded['subfolder']}/{uploaded['name']}")
    pictures = api.queue_and_wait_images(workflow, "SaveImage")
    assert list(pictures) == ["simple_00001_.png"]
    shown = np.asarray(Image.open(BytesIO(pictures["simple_00001_.png"])))
    assert shown.shape == (8, 12, 3) and np.abs(shown.astype(int) - (5, 55, 155)).max() <= 1
