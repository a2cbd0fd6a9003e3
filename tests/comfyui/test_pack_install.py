"""What installing the pack does to a ComfyUI: it replaces nothing in its Python, and all that it promises runs there.

The Python under test is never changed: pip only plans there. What has to be installed goes into an environment on top
of it. pip needs its index.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_archive
from comfyui.process import REPO, Boot, ComfyUI, Install, working_tree
from PIL import Image

SMALL_SHAPES = Path(__file__).parent / "packs" / "ryla_test_small_shapes"
REAL_NAMES = {"flux": "flux1-dev", "clip_l": "clip_l", "t5xxl": "t5xxl_fp16", "ae": "ae"}
# (name, version) of every distribution that this Python finds, the first of a name as it is the one imported.
INSTALLED = """
import importlib.metadata, json, re
found = {}
for item in importlib.metadata.distributions():
    found.setdefault(re.sub("[-_.]+", "-", item.metadata["Name"]).lower(), item.version)
print(json.dumps(found))
"""


def run(python: Path, *arguments: object, folder: Path | None = None) -> str:
    """Standard output of ``python ARGUMENTS`` with nothing set that a user would not have."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RYLA_"))}
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def installed(python: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(run(python, "-c", INSTALLED))
    return found


@pytest.fixture(scope="module")
def with_requirements(comfyui_install: Install, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """The ComfyUI, with a Python of its own packages and what `pip install -r requirements.txt` adds; no ryla-nodes."""
    folder = tmp_path_factory.mktemp("python") / "venv"
    run(comfyui_install.python, "-m", "venv", folder)
    python = folder / "bin" / "python"
    packages = "import sysconfig; print(sysconfig.get_path('purelib'))"
    below = run(comfyui_install.python, "-c", packages).strip()
    own = Path(run(python, "-c", packages).strip())
    (own / "comfyui.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    run(python, "-m", "pip", "install", "--quiet", "-r", REPO / "requirements.txt")
    return Install(comfyui_install.root, python)


@pytest.fixture(scope="module", params=["clone", "archive"])
def pack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack's folder as each way of getting it makes it."""
    folder = tmp_path_factory.mktemp("custom_nodes")
    if request.param == "clone":
        return working_tree(folder / "ryla-nodes")
    return registry_archive.unpack(registry_archive.pack(folder / "node.zip"), folder)


@pytest.fixture(scope="module")
def models(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small models under the names that the catalogue has for the real ones."""
    folder = tmp_path_factory.mktemp("models")
    for path in (tiny_home / "models").rglob("tiny-*"):
        name, dot, rest = path.name.removeprefix("tiny-").partition(".")
        place = folder / path.parent.name / (REAL_NAMES[name] + dot + rest)
        place.parent.mkdir(exist_ok=True)
        place.hardlink_to(path)
    return folder


@pytest.fixture(scope="module")
def server(
    with_requirements: Install, pack: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyUI]:
    boot = Boot(route="none", packs=(pack, SMALL_SHAPES), models=(models,))
    server = ComfyUI.start(with_requirements, tmp_path_factory.mktemp("comfyui"), boot)
    yield server
    server.stop()


def test_the_requirements_replace_nothing(comfyui_install: Install, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    plan = ("--dry-run", "--quiet", "--report", report)
    run(comfyui_install.python, "-m", "pip", "install", *plan, "-r", REPO / "requirements.txt")
    there = installed(comfyui_install.python)
    planned: list[dict[str, Any]] = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    names = {item["name"].replace("_", "-").lower(): item["version"] for item in planned}
    assert {name: (there[name], version) for name, version in names.items() if name in there} == {}


def test_the_environment_on_top_changes_nothing_below(comfyui_install: Install, with_requirements: Install) -> None:
    below, above = installed(comfyui_install.python), installed(with_requirements.python)
    assert {name: above[name] for name in below if name not in ("pip", "setuptools")} == {
        name: version for name, version in below.items() if name not in ("pip", "setuptools")
    }
    assert "ryla-nodes" not in above


def test_the_pack_loads_and_a_job_runs(server: ComfyUI, pack: Path) -> None:
    assert "IMPORT FAILED" not in server.log
    graph = json.loads((pack / "workflows" / "flux-dev" / "api.json").read_text())
    for node in graph.values():
        node["inputs"] |= {name: value for name, value in (("width", 256), ("height", 256)) if name in node["inputs"]}
        node["inputs"] |= {"steps": 1} if "steps" in node["inputs"] else {}
    outputs = server.succeed(graph)
    saved = next(key for key, node in graph.items() if node["class_type"] == "RYLA_SaveImage")
    assert Image.open(server.files(outputs, saved)[0]).size == (256, 256)


def test_models_are_listed_by_the_script(with_requirements: Install, pack: Path, tmp_path: Path) -> None:
    listed = json.loads(
        run(with_requirements.python, pack / "scripts/install_models.py", "list", "--json", folder=tmp_path)
    )
    assert "flux1-dev" in {model["id"] for model in listed["models"]}
    told = run(with_requirements.python, pack / "scripts/install_models.py", "--help", folder=tmp_path)
    assert "--volume" in told


def test_a_workflow_is_run_by_the_script(server: ComfyUI, pack: Path, tmp_path: Path) -> None:
    size = ("--width", 256, "--height", 256, "--steps", 1, "--seed", 7)
    words = ("flux-dev", "--server", server.url, "--prompt", "a red star", *size, "-o", tmp_path / "x.jpg", "--json")
    told = json.loads(run(server.install.python, pack / "scripts/run_workflow.py", *words, folder=tmp_path))
    assert told["state"] == "succeeded"
    assert Image.open(tmp_path / "x.jpg").size == (256, 256)
