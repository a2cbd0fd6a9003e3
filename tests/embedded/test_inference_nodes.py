"""The core node classes of the embedded engine: ComfyUI's inputs, and graphs of them through the engine itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import small_models
import tiny_flux
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.engines.embedded.core_nodes import core_classes, diffusion, loaders
from ryla_nodes.engines.embedded.execution.registry import Registry
from ryla_nodes.engines.embedded.server.server import EngineServer
from ryla_nodes.engines.protocol import running_in
from ryla_nodes.nodes import node_classes
from ryla_nodes.workflows.object_info import recorded, versions

NODES = [cls for cls in core_classes() if cls.__module__ in (loaders.__name__, diffusion.__name__)]


@pytest.fixture(scope="module")
def registry(tiny_home: Path) -> Iterator[Registry]:
    with running_in(small_models.engine(tiny_home)):
        yield Registry(NODES)


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("cls", NODES, ids=lambda cls: cls.__name__)
def test_inputs_are_comfyuis(cls: Any, version: str, registry: Registry) -> None:
    """Names, order, types, defaults and ranges; a list of choices may be shorter than ComfyUI's."""
    name = cls.GET_SCHEMA().node_id
    ours, theirs = json.loads(json.dumps(registry.info(name))), recorded(version)[name]
    assert ours["input_order"] == theirs["input_order"]
    assert ours["output"] == theirs["output"]
    for group, names in theirs["input_order"].items():
        for key in names:
            _require_same(ours["input"][group][key], theirs["input"][group][key], key)


def _require_same(ours: list[Any], theirs: list[Any], key: str) -> None:
    options = [
        {
            name: value
            for name, value in (spec[1] if len(spec) > 1 else {}).items()
            if name not in ("tooltip", "advanced")
        }
        for spec in (ours, theirs)
    ]
    assert options[0] == options[1], key
    if theirs[0] == "COMBO":  # A list of files, recorded without them.
        assert isinstance(ours[0], list), key
    elif isinstance(theirs[0], list):
        assert ours[0] and set(ours[0]) <= set(theirs[0]), key
    else:
        assert ours[0] == theirs[0], key


def node(name: str, **inputs: Any) -> tuple[str, dict[str, Any]]:
    return name, inputs


def graph(**changes: dict[str, Any]) -> dict[str, Any]:
    """A small picture by core nodes; ``changes``: inputs by class."""
    encoders = {"clip_name1": "tiny-clip_l.safetensors", "clip_name2": "tiny-t5xxl.safetensors"}
    sockets = {"model": ["1", 0], "positive": ["5", 0], "negative": ["6", 0], "latent_image": ["7", 0]}
    settings = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    nodes = {
        "1": node("UNETLoader", unet_name="tiny-flux.safetensors", weight_dtype="default"),
        "2": node("DualCLIPLoader", **encoders, type="flux"),
        "3": node("VAELoader", vae_name="tiny-ae.safetensors"),
        "4": node("CLIPTextEncode", text="a red cat", clip=["2", 0]),
        "5": node("FluxGuidance", conditioning=["4", 0], guidance=3.5),
        "6": node("ConditioningZeroOut", conditioning=["4", 0]),
        "7": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "8": node("KSampler", **sockets, **settings),
        "9": node("VAEDecode", samples=["8", 0], vae=["3", 0]),
        "10": node("SaveImage", images=["9", 0], filename_prefix="x"),
    }
    return {
        number: {"class_type": name, "inputs": inputs | changes.get(name, {})}
        for number, (name, inputs) in nodes.items()
    }


@pytest.fixture(scope="module")
def home(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of its own to write into."""
    return small_models.copied(tiny_home, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[EngineServer]:
    with EngineServer(home, node_classes(), settings=settings.load({})) as running:
        yield running


def run(engine: EngineServer, prompt: dict[str, Any]) -> dict[str, Any]:
    with httpx.Client(base_url=engine.url, timeout=30, trust_env=False) as http:
        answer = http.post("/prompt", json={"prompt": prompt})
        assert answer.status_code == 200, answer.text
        prompt_id = answer.json()["prompt_id"]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            history = http.get(f"/history/{prompt_id}").json()
            if prompt_id in history:
                return dict(history[prompt_id])
            time.sleep(0.01)
    raise AssertionError("the job did not end")


def picture(engine: EngineServer, home: Path, prompt: dict[str, Any]) -> np.ndarray:
    entry = run(engine, prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    (image,) = entry["outputs"]["10"]["images"]
    return np.asarray(Image.open(home / "output" / image["subfolder"] / image["filename"])).astype(int)


def test_a_graph_of_core_nodes(engine: EngineServer, home: Path) -> None:
    made = picture(engine, home, graph())
    assert made.shape == (64, 64, 3) and made.std() > 20
    again = picture(engine, home, graph(SaveImage={"filename_prefix": "y"}))
    assert (made == again).all()
    assert (made != picture(engine, home, graph(KSampler={"seed": 2}))).any()


def test_clip_text_encode_flux_is_text_and_guidance_in_one(engine: EngineServer, home: Path) -> None:
    joined = graph()
    joined["5"] = {
        "class_type": "CLIPTextEncodeFlux",
        "inputs": {"clip": ["2", 0], "clip_l": "a red cat", "t5xxl": "a red cat", "guidance": 3.5},
    }
    assert (picture(engine, home, joined) == picture(engine, home, graph())).all()


def test_loras_by_core_nodes(engine: EngineServer, home: Path) -> None:
    small_models.kohya(home / "models" / "loras" / "core.safetensors", clip=True)
    plain, pictures = picture(engine, home, graph()), []
    for strength in (0.0, 1.0):
        both = graph(CLIPTextEncode={"clip": ["11", 1]}, KSampler={"model": ["11", 0]})
        inputs = {"model": ["1", 0], "clip": ["2", 0], "lora_name": "core.safetensors"}
        both["11"] = {
            "class_type": "LoraLoader",
            "inputs": {**inputs, "strength_model": strength, "strength_clip": strength},
        }
        pictures.append(picture(engine, home, both))
    alone = graph(KSampler={"model": ["11", 0]})
    alone["11"] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["1", 0], "lora_name": "core.safetensors", "strength_model": 1.0},
    }
    pictures.append(picture(engine, home, alone))
    assert (pictures[0] == plain).all()
    assert (pictures[1] != plain).any() and (pictures[2] != plain).any() and (pictures[1] != pictures[2]).any()


def test_a_checkpoint_and_a_picture_to_start_from(engine: EngineServer, home: Path) -> None:
    files = tiny_flux.files(home / "models")
    small_models.all_in_one(files, home / "models" / "checkpoints" / "core-whole.safetensors")
    (home / "input").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(home / "input" / "red.png")
    changed = graph(CLIPTextEncode={"clip": ["1", 1]}, VAEDecode={"vae": ["1", 2]}, KSampler={"denoise": 0.3})
    changed["1"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "core-whole.safetensors"}}
    changed["3"] = {"class_type": "LoadImage", "inputs": {"image": "red.png"}}
    changed["7"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["3", 0], "vae": ["1", 2]}}
    del changed["2"]
    assert picture(engine, home, changed).shape == (64, 64, 3)


def test_a_file_that_went_away_after_validation(registry: Registry) -> None:
    from ryla_nodes.errors import RylaError

    with pytest.raises(RylaError, match=r"gone.safetensors is in none of the diffusion_models folders: .*models"):
        registry["UNETLoader"].execute(unet_name="gone.safetensors", weight_dtype="default")


def test_a_failure_while_loading_reaches_the_history(engine: EngineServer, home: Path) -> None:
    whole = tiny_flux.files(home / "models").transformer
    cut = home / "models" / "diffusion_models" / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-10])
    try:
        entry = run(engine, graph(UNETLoader={"unet_name": "cut.safetensors"}))
    finally:
        cut.unlink()
    assert entry["status"]["status_str"] == "error"
    assert "truncated" in json.dumps(entry["status"]["messages"])


def test_progress_is_told_for_every_step(engine: EngineServer) -> None:
    from websockets.sync.client import connect

    with connect(engine.url.replace("http", "ws") + "/ws?clientId=steps") as socket:
        with httpx.Client(base_url=engine.url, trust_env=False) as http:
            prompt = graph(KSampler={"steps": 3, "seed": 77})
            assert http.post("/prompt", json={"prompt": prompt, "client_id": "steps"}).status_code == 200
        seen: list[tuple[int, int]] = []
        while True:
            message = json.loads(socket.recv(timeout=30))
            if message["type"] == "progress":
                seen.append((message["data"]["value"], message["data"]["max"]))
            if message["type"] in ("execution_success", "execution_error"):
                break
    assert seen == [(1, 3), (2, 3), (3, 3)]
