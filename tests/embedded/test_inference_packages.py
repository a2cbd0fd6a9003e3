"""The embedded engine asks only for what it imports: FLUX for the extra ``embedded``, SDXL for diffusers beside it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ryla_nodes.engines import embedded
from ryla_nodes.engines.embedded.inference import samplers, schedules, tokenizers
from ryla_nodes.errors import RylaError
from ryla_nodes.models.folders import ModelFolders

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"PIL": "pillow", "google": "protobuf", "multidict": "aiohttp"}
NETWORKS = ("accelerate", "diffusers", "insightface", "onnx", "onnxruntime", "cv2", "torchvision", "transformers")
# A finder that comes first and knows nothing of some packages.
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from ryla_nodes.cli.app import main
main()
"""


def names(lines: list[str]) -> set[str]:
    return {re.split(r"[<>=;\[ ]", line)[0] for line in lines}


def imported() -> set[str]:
    """The distributions that the engine's own folder imports, early or late."""
    roots: set[str] = set()
    for path in Path(embedded.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                roots.add(node.module.partition(".")[0])
    return {DISTRIBUTIONS.get(root, root) for root in roots - set(sys.stdlib_module_names)}


def ryla_without(absent: tuple[str, ...], home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RYLA_")}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=set(absent)), *map(str, words)],
        env={**environment, "RYLA_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_extras_bring_what_the_engine_imports_and_no_more() -> None:
    extras = PROJECT["optional-dependencies"]
    beside = imported() - names(PROJECT["dependencies"])
    assert beside - {"diffusers"} == names(extras["embedded"])
    assert "diffusers" in beside & names(extras["identity"])


def test_flux_with_a_lora_paints_without_the_libraries_of_networks(tmp_path: Path) -> None:
    words = ("run", "flux-lora", "--engine", "embedded", "--lora-id", "mira", "--prompt", "a drawn face")
    size = ("--width", 128, "--height", 128, "--steps", 2, "--sampler", "dpmpp_2m_sde", "--scheduler", "beta")
    done = ryla_without(NETWORKS, tmp_path / "home", *words, *size, "-o", tmp_path / "x.png")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "x.png").size == (128, 128)


def test_without_diffusers_sdxl_says_so_and_names_the_command(tmp_path: Path) -> None:
    Image.new("RGB", (256, 256)).save(tmp_path / "photo.png")
    words = ("run", "sdxl-instantid", "--engine", "embedded", "--reference-image", tmp_path / "photo.png")
    done = ryla_without(("diffusers",), tmp_path / "home", *words, "--prompt", "x", "-o", tmp_path / "x.png", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 3, done.stderr
    assert told["error"]["code"] == "embedded_not_installed"
    assert "needs diffusers" in told["error"]["message"]
    assert told["error"]["hint"] == "pip install 'ryla-nodes[identity]'"


def test_what_one_sampler_scheduler_or_tokenizer_needs_is_asked_for_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    spiece = tmp_path / "t5xxl" / "spiece.model"
    spiece.parent.mkdir()
    spiece.touch()
    sampling = schedules.FlowSampling()
    run = samplers.Run(lambda x, sigma: x, sampling, 1, lambda done: None)
    asks: dict[str, Any] = {
        "torchsde": lambda: samplers.SAMPLERS["dpmpp_2m_sde"](run, torch.zeros(1), torch.tensor([1.0, 0.5, 0.0])),
        "scipy": lambda: schedules.sigmas(sampling, "beta", 4, 1.0),
        "sentencepiece": lambda: tokenizers.t5xxl(
            tmp_path / "x.safetensors", 32128, ModelFolders({"tokenizers": (tmp_path,)})
        ),
    }
    real = embedded.find_spec
    monkeypatch.setattr(embedded, "find_spec", lambda name: None if name in asks else real(name))
    embedded.require()
    for name, ask in asks.items():
        with pytest.raises(RylaError, match=f"needs {name}") as caught:
            ask()
        assert caught.value.code == "embedded_not_installed"
        assert caught.value.hint == "pip install 'ryla-nodes[embedded]'"
