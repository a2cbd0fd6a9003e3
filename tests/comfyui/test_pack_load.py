"""Our pack in a real ComfyUI: it loads by every route, quickly and without a word, and shows what it has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import registry_archive
from comfyui.conftest import StartComfyUI
from comfyui.process import REPO, ComfyUI, Install, working_tree

NODES = {"RYLA_FluxLoader", "RYLA_LoraLoader", "RYLA_Prompt", "RYLA_SaveImage"}
FOLDERS_PACK = Path(__file__).parent / "packs" / "ryla_test_folders.py"
# "   0.1 seconds: /path/to/pack": ComfyUI's own measurement, rounded.
IMPORT_TIME = re.compile(r"^ *(\d+\.\d) seconds(.*): (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def comfy_cli() -> str:
    """comfy-cli's program."""
    cli = os.environ.get("COMFY_CLI") or shutil.which("comfy")
    if cli is None:
        pytest.skip("No comfy-cli found: put `comfy` into PATH or name it in COMFY_CLI.")
    return cli


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with the working tree as its one commit."""
    repository = working_tree(tmp_path_factory.mktemp("repository") / "ryla-nodes")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "Test")):
        subprocess.run(["git", *command], cwd=repository, check=True)
    return repository


@pytest.fixture(scope="module")
def installed_pack(
    comfyui_install: Install, comfy_cli: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The pack as `comfy node install` puts it into a workspace."""
    folder = tmp_path_factory.mktemp("install")
    workspace = folder / "ComfyUI"
    ignored = shutil.ignore_patterns(".git", "__pycache__", "models", "output", "input", "user", "custom_nodes")
    shutil.copytree(comfyui_install.root, workspace, ignore=ignored)
    for name in ("custom_nodes", "models", "user"):
        (workspace / name).mkdir()
    # --no-deps: the ComfyUI under test is not ours to change.
    command = [comfy_cli, "--skip-prompt", "--workspace", str(workspace), "node", "install", "--no-deps",
               f"file://localhost{repository}"]  # fmt: skip
    environ = {**os.environ, "HOME": str(folder), "VIRTUAL_ENV": str(comfyui_install.python.parent.parent),
               "DO_NOT_TRACK": "1"}  # fmt: skip
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    pack = workspace / "custom_nodes" / "ryla-nodes"
    assert pack.is_dir(), done.stdout + done.stderr
    return pack


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack as it comes from the registry."""
    folder = tmp_path_factory.mktemp("registry")
    return registry_archive.unpack(registry_archive.pack(folder / "node.zip"), folder)


@pytest.fixture(params=["paths", "clone", "archive", "comfy node install"])
def server(request: pytest.FixtureRequest, start_comfyui: StartComfyUI) -> ComfyUI:
    """A ComfyUI with our pack, by each route."""
    folders = {"archive": "unpacked", "comfy node install": "installed_pack"}
    if request.param in folders:
        return start_comfyui(route="none", packs=(request.getfixturevalue(folders[request.param]),))
    return start_comfyui(route=request.param)


def test_the_archive_of_these_tests_is_that_of_comfy_cli(comfy_cli: str, repository: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1"}
    packing = subprocess.run(
        [comfy_cli, "--skip-prompt", "node", "pack"], cwd=repository, env=environ, capture_output=True, text=True
    )
    (archive,) = repository.glob("*.zip")
    with zipfile.ZipFile(archive) as file:
        assert sorted(file.namelist()) == registry_archive.names(), packing.stdout + packing.stderr
    archive.unlink()


def test_loading_adds_no_line_to_the_log(server: ComfyUI, start_comfyui: StartComfyUI) -> None:
    without = {_anonymous(line) for line in start_comfyui(route="none").log.splitlines()}
    added = [line for line in server.log.splitlines() if _anonymous(line) not in without]
    times = ("Prestartup times for custom nodes:", "Import times for custom nodes:")
    known = ("Adding extra search path custom_nodes", *times)
    assert [line for line in added if not line.startswith(known) and not IMPORT_TIME.match(line)] == []


def test_loading_takes_under_a_tenth_of_a_second(server: ComfyUI) -> None:
    times = {Path(path).name: (float(seconds), note) for seconds, note, path in IMPORT_TIME.findall(server.log)}
    name = next(name for name in times if name.startswith("ryla"))
    assert times[name] <= (0.1, "")


def test_every_node_and_input_explains_itself(server: ComfyUI) -> None:
    described = {name: node for name, node in server.get("/object_info").items() if name.startswith("RYLA_")}
    assert described.keys() >= NODES
    for name, node in described.items():
        assert node["description"], name
        assert node["category"].startswith("RYLA/"), name
        assert all(node["output_tooltips"]), name
        assert _without_tooltip(node) == [], name


def test_every_node_has_a_help_page(server: ComfyUI) -> None:
    folder = "ryla_nodes" if "custom_nodes/ryla_nodes" in server.log else "ryla-nodes"
    for name in NODES:
        page = server.http.get(f"/extensions/{folder}/docs/{name}.md")
        assert page.status_code == 200, name
        assert len(page.text) > 200, name


def test_the_browser_gets_our_scripts(server: ComfyUI) -> None:
    paths = [path for path in server.get("/extensions") if "ryla" in path]
    there = (REPO / "custom_nodes" / "ryla_nodes" / "web" / "js").glob("*.js")
    assert {path.rpartition("/")[2] for path in paths} == {path.name for path in there}
    for path in paths:
        assert server.http.get(path).headers["content-type"].startswith(("text/javascript", "application/javascript"))


def test_the_volume_is_searched_behind_the_users_own_folders(start_comfyui: StartComfyUI, tmp_path: Path) -> None:
    own, volume = tmp_path / "own", tmp_path / "volume"
    for name in ("loras", "insightface"):
        (own / name).mkdir(parents=True)
    (volume / "diffusion_models").mkdir(parents=True)
    (volume / "diffusion_models" / "from-volume.safetensors").touch()
    server = start_comfyui(packs=(FOLDERS_PACK,), models=(own,), environ={"RYLA_VOLUME": str(volume)})
    folders = server.get("/ryla_test/folders")

    for kind in ("loras", "insightface", "instantid", "vae", "checkpoints"):
        assert folders[kind][0][-1] == str(volume / kind)
    for kind, last in (
        ("diffusion_models", ("unet", "diffusion_models")),
        ("text_encoders", ("text_encoders", "clip")),
    ):
        assert folders[kind][0][-2:] == [str(volume / name) for name in last]
    assert folders["insightface"][0] == [str(path / "insightface") for path in (own, server.base / "models", volume)]
    assert ".onnx" in folders["insightface"][1]
    assert ".safetensors" in folders["instantid"][1]
    assert folders["loras"][1] == folders["vae_approx"][1], "core's list of extensions was changed"
    names = server.get("/object_info/UNETLoader")["UNETLoader"]["input"]["required"]["unet_name"][0]
    assert names == ["from-volume.safetensors"]
    server.stop()


def _anonymous(line: str) -> str:
    """A log line without what differs from start to start."""
    return re.sub(r"\d+(\.\d+)?|/\S+", "#", line)


def _without_tooltip(node: dict[str, Any]) -> list[str]:
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return [name for name, spec in inputs.items() if not (len(spec) > 1 and spec[1].get("tooltip"))]
