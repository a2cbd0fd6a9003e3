"""What ``ryla models install`` puts on a volume, a real ComfyUI lists, and the workflow validates against it."""

from __future__ import annotations

from pathlib import Path

import httpx
from comfyui.conftest import StartComfyUI
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.models import link
from ryla_nodes.models.catalogue import ModelEntry
from ryla_nodes.workflows import manifest, validate, workflow
from unit.models_world import World, world

WORKFLOW = "flux-instantid"


def _install(machine: World) -> list[ModelEntry]:
    names = manifest.load(WORKFLOW, settings.load({})).models
    machine.publish(names)
    files = [part for name in names for part in machine.catalogue.files(machine.catalogue.get(name))]
    result = machine.run("install", WORKFLOW, "--yes")
    assert set(result.states) == {entry.id for entry in files} and set(result.states.values()) == {"downloaded"}
    assert machine.run("check", WORKFLOW).status == 0
    return files


def test_comfyui_lists_every_installed_file_and_the_workflow_validates(
    start_comfyui: StartComfyUI, tmp_path_factory
) -> None:
    root: Path = tmp_path_factory.mktemp("volume")
    with world(root) as machine:
        files = _install(machine)
        server = start_comfyui(environ={"RYLA_VOLUME": str(machine.volume)})
        with httpx.Client(base_url=server.url, timeout=60) as http:
            listed = {folder: http.get(f"/models/{folder}").json() for folder in {entry.folder for entry in files}}
            info = http.get("/object_info").json()
    for entry in files:
        assert entry.filename in listed[entry.folder], (entry.id, listed[entry.folder])
    loaded = manifest.load(WORKFLOW, settings.load({}))
    photo = root / "photo.png"
    Image.new("RGB", (64, 64)).save(photo)
    bound = workflow.bind(loaded, {"prompt": "a face", "reference_image": str(photo)})
    assert [str(problem) for problem in validate.problems(bound.graph, info) if problem.severity == "error"] == []


def test_comfyui_without_the_pack_lists_what_is_linked_and_what_the_yaml_names(
    start_comfyui: StartComfyUI, tmp_path_factory
) -> None:
    root: Path = tmp_path_factory.mktemp("volume")
    linked, named = root / "linked", root / "named"
    named.mkdir()
    with world(root) as machine:
        machine.publish(["clip_l", "ae"])
        assert machine.run("install", "clip_l", "--yes").status == 0
        link.link_files(machine.volume, linked)
        file, _ = link.write_yaml(machine.volume, named)
    for more in ({"models": (linked / "models",)}, {"arguments": ("--extra-model-paths-config", str(file))}):
        server = start_comfyui(route="none", **more)
        assert server.get("/models/text_encoders") == ["clip_l.safetensors"]
        assert "ae.safetensors" not in server.get("/models/vae"), "it was not installed"
