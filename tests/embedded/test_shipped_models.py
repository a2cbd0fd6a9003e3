"""The models that come with the package are what the embedded engine paints with, from the first command on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.protocol import running_in
from ryla_nodes.errors import RylaError
from ryla_nodes.identity import demo_people
from ryla_nodes.loras.inspect import inspect
from ryla_nodes.models import shipped
from ryla_nodes.models.folders import ModelFolders, at_root
from ryla_nodes.nodes.flux import FluxLoader
from ryla_nodes.nodes.lora import LoraLoader

LORAS = ("mira", "mira-diffusers")


def ryla(home: Path, *words: object) -> tuple[int, dict[str, Any]]:
    """``ryla WORDS --json`` in a process of its own, on a home that nobody has used: exit status and object."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RYLA_")}
    done = subprocess.run(
        [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", *map(str, words), "--json"],
        env={**environment, "RYLA_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, json.loads(done.stdout)


def painted(home: Path, workflow: str, *more: object) -> tuple[np.ndarray, dict[str, Any]]:
    """A 128x128 picture of one step, and what the command told."""
    file = home.parent / f"{workflow}-{'-'.join(map(str, more))[-20:]}.png"
    size = ("--width", 128, "--height", 128, "--steps", 1, "--seed", 3)
    prompt = ("--prompt", "a drawn face, mint background")
    status, told = ryla(home, "run", workflow, "--engine", "embedded", *prompt, *size, *more, "-o", file)
    assert status == 0, told
    return np.asarray(Image.open(file), dtype=np.float32), told


def test_a_fresh_home_paints(tmp_path: Path) -> None:
    picture, told = painted(tmp_path / "home", "flux-dev")
    assert picture.shape == (128, 128, 3) and picture.std() > 1
    assert not (tmp_path / "home" / "models").exists(), "nothing is made or copied"
    assert told["state"] == "succeeded"


def test_a_fresh_home_paints_with_a_photo(tmp_path: Path) -> None:
    pytest.importorskip("insightface", reason="the extra `identity` is not installed")
    photo, file = tmp_path / "photo.png", tmp_path / "picture.png"
    demo_people.save(0, demo_people.REFERENCES[0], photo)
    words = ("--prompt", "a person, mint background", "--width", 256, "--height", 256, "--steps", 2, "--seed", 3)
    status, told = ryla(tmp_path / "home", "run", "sdxl-instantid", "--engine", "embedded",
                        "--reference-image", photo, *words, "-o", file)  # fmt: skip
    assert status == 0 and told["state"] == "succeeded", told
    texts = "\n".join(text for report in told["outputs"].values() for text in report.get("text", ()))
    for name in map(shipped.path, shipped.IDENTITY):
        assert name.name in texts
    assert np.asarray(Image.open(file)).std() > 1
    assert not (tmp_path / "home" / "models").exists(), "nothing is made or copied"


def test_mira_by_id_in_both_formats(tmp_path: Path) -> None:
    pictures = []
    for name in LORAS:
        picture, told = painted(tmp_path / "home", "flux-lora", "--lora-id", name)
        pictures.append(picture)
        texts = [report["text"][0] for report in told["outputs"].values() if "text" in report]
        assert "mira, a drawn face, mint background" in texts
        (report,) = (text for text in texts if "matched" in text)
        info = inspect(shipped.ROOT / "loras" / f"{name}.safetensors")
        assert f"matched {info.modules} weights of the model" in report and "matched nothing" not in report
        assert "trigger word 'mira'" in report
    assert np.abs(pictures[0] - pictures[1]).mean() < 1


def test_a_damaged_package_is_told_before_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copytree(shipped.ROOT, tmp_path / "paint")
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "paint")
    path = shipped.path("ryla-paint-flux")
    with running_in(EmbeddedEngine(tmp_path / "home", ModelFolders({}))):
        assert FluxLoader.validate_inputs("auto") is True
        path.write_bytes(path.read_bytes()[:-1])
        for model in ("auto", path.name):
            with pytest.raises(RylaError) as refused:
                FluxLoader.validate_inputs(model)
            assert str(path) in refused.value.message and "truncated" in refused.value.message
            assert refused.value.code == "damaged_package"


def test_real_weights_need_no_whole_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_home: Path) -> None:
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "nothing")
    with running_in(EmbeddedEngine(tmp_path / "home", at_root(tiny_home / "models"))):
        assert FluxLoader.validate_inputs("tiny-flux.safetensors") is True
        with pytest.raises(RylaError) as refused:
            FluxLoader.validate_inputs("auto")
        assert refused.value.code == "damaged_package"


def test_a_lora_of_the_homes_goes_before_the_packages(tmp_path: Path) -> None:
    mine = tmp_path / "models" / "loras" / "mira.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(shipped.path("ryla-paint-mira-diffusers").read_bytes())
    engine = EmbeddedEngine(tmp_path, ModelFolders({}))
    with running_in(engine):
        model, clip, _ = engine.load_flux(engine.default_flux(), "default")
        report = LoraLoader.execute(model, "mira", 1.0, "error", clip=clip).result[3]
    assert str(mine) in report and str(shipped.ROOT / "loras") in report


def test_the_host_lists_models_without_torch(tmp_path: Path) -> None:
    """So that `ryla engine` is up at once and /object_info costs nothing."""
    code = (
        "import sys; from pathlib import Path\n"
        "from ryla_nodes.engines.embedded.engine import EmbeddedEngine\n"
        "from ryla_nodes.models.folders import ModelFolders\n"
        "host = EmbeddedEngine(Path(sys.argv[1]), ModelFolders({}))\n"
        "assert host.folders().list('diffusion_models') == ['ryla-paint-flux.safetensors']\n"
        "assert host.default_flux().transformer.is_file()\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'tokenizers', 'safetensors', 'numpy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_painting_imports_no_library_of_networks(tmp_path: Path) -> None:
    """Seconds of every short command: transformers, diffusers and torch's compiler."""
    code = (
        "import sys\n"
        "from ryla_nodes.cli.app import main\n"
        "sys.argv[1:] = ['run', 'flux-lora', '--engine', 'embedded', '--lora-id', 'mira', '--prompt', 'mira',"
        " '--steps', '1', '--width', '128', '--height', '128', '-o', sys.argv[1] + '/x.png']\n"
        "main()\n"
        "heavy = {'diffusers', 'transformers', 'accelerate', 'scipy', 'torch._dynamo'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "RYLA_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_command_tells_people_what_the_lora_did(tmp_path: Path) -> None:
    words = ["run", "flux-lora", "--engine", "embedded", "--lora-id", "mira", "--prompt", "a face", "--steps", "1"]
    line = [*words, "--width", "128", "--height", "128", "-o", str(tmp_path / "x.png")]
    environment = {**os.environ, "RYLA_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    code = "from ryla_nodes.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, env=environment)
    assert "lora    mira: " in done.stderr and "matched 24 weights of the model" in done.stderr
    assert "trigger word 'mira'" in done.stderr
