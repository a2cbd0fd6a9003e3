"""The deployment on Modal, as far as it goes without Modal's cloud."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ryla_nodes.cli.comfyui import install as comfyui_install
from ryla_nodes.cli.deploy.modal_plan import ModalPlan, load
from ryla_nodes.errors import RylaError

pytest.importorskip("modal", reason="the extra modal is not installed")
from deployment.modal_runtime import REPO, ModalContainer, Volume, class_of, dependencies_of, load_app, spec_of

SHIPPED_LORA = REPO / "custom_nodes/ryla_nodes/engines/embedded/paint/loras/mira.safetensors"
STAR = {"prompt": "a red star, cream background", "width": 256, "height": 256, "steps": 1, "seed": 7}
EMBEDDED = """
engine = "embedded"
gpu = ""
workflows = ["flux-dev", "flux-lora", "flux-instantid"]
prefetch = []
requests = 8
crowded = 2
start_within = 100
"""


# --- the settings ----------------------------------------------------------------------------------------------------


def test_the_shipped_file_says_the_defaults() -> None:
    assert asdict(load(REPO / "deploy" / "modal.toml")) == asdict(ModalPlan())
    text = (REPO / "deploy" / "modal.toml").read_text()
    assert set(re.findall(r"^(\w+) =", text, re.M)) == set(asdict(ModalPlan()))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gpus = 'H100'", "gpus is no setting; the nearest is gpu"),
        ("gpu = 1", "gpu has to be of type str, not 1"),
        ("workflows = 'flux-dev'", "workflows has to be a list of names"),
        ("snapshot = 1", "snapshot has to be of type bool"),
        ("requests = 1\ncrowded = 1", "requests has to be 2 or more"),
        ("engine = 'a1111'", "comfyui, embedded"),
        ("gpu = ''", 'needs a gpu, such as "H100"'),
        ("min_containers = 2", "min_containers has to be from 0 to max_containers"),
        ("crowded = 65", "crowded has to be at most requests (64)"),
        ("gpu = ", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "modal.toml"
    path.write_text(text)
    with pytest.raises(RylaError, match=re.escape(told)) as refused:
        load(path)
    assert refused.value.code == "invalid_deployment" and str(path) in refused.value.message


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RylaError, match=r"nowhere\.toml cannot be read"):
        load(tmp_path / "nowhere.toml")


# --- the app ---------------------------------------------------------------------------------------------------------


def test_the_app_is_what_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "modal.toml"
    told.write_text('gpu = "L40S"\nmax_containers = 3\nscaledown_window = 60\ncpu = 8\nmemory = 65536\n')
    module = load_app(told, monkeypatch)
    spec = class_of(module)._get_class_service_function()._spec_
    assert (spec.gpus, spec.cpu, spec.memory) == ("L40S", 8.0, 65536)
    assert set(spec.volumes) == {"/volume", "/loras"}
    assert spec.volumes["/volume"]._mount_options.read_only  # The weights are `install`'s to write.
    assert [repr(secret) for secret in spec.secrets] == ["modal.Secret.from_name('ryla')"]  # Not the hub's token.
    assert spec_of(module.install).volumes.keys() == {"/volume"}


def test_in_a_container_the_app_asks_for_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the files of the image are not; Modal compares how many objects a function needs here and there."""
    modules = [load_app(REPO / "deploy" / "modal.toml", monkeypatch)]
    monkeypatch.setattr("modal.is_local", lambda: False)
    modules.append(load_app(REPO / "deploy" / "modal.toml", monkeypatch))
    needs = [[len(dependencies_of(each)) for each in (class_of(m), m.install)] for m in modules]
    assert needs[0] == needs[1] and min(needs[0]) >= 3


def test_without_a_gpu_none_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "modal.toml"
    told.write_text(EMBEDDED)
    assert class_of(load_app(told, monkeypatch))._get_class_service_function()._spec_.gpus is None


def test_the_image_s_steps_are_those_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_app(REPO / "deploy" / "modal.toml", monkeypatch)
    script = REPO / "deploy" / "image" / "install.sh"
    known = re.findall(r"^#   install\.sh (\w+) ", script.read_text(), re.M)
    assert {step for steps in module.STEPS.values() for step in steps} == set(known)
    docker = (REPO / "deploy" / "image" / "Dockerfile").read_text()
    parts = [re.findall(r"install\.sh (\w+)$", part, re.M) for part in docker.split("\nFROM base AS ")]
    base, embedded, comfyui = parts
    assert {"comfyui": (*base, *comfyui), "embedded": (*base, *embedded)} == module.STEPS
    refused = subprocess.run(["bash", script, "torch"], capture_output=True, text=True)
    assert refused.returncode == 2 and all(step in refused.stderr for step in known)


def test_the_script_installs_the_versions_that_were_tested() -> None:
    text = (REPO / "deploy" / "image" / "install.sh").read_text()
    assert f"\nCOMFY_CLI={comfyui_install.COMFY_CLI}\n" in text and f"\nCOMFYUI={comfyui_install.COMFYUI}\n" in text


# --- a container -----------------------------------------------------------------------------------------------------


class World:
    """A container with the embedded engine, and its volume of LoRAs."""

    def __init__(self, container: ModalContainer, loras: Volume) -> None:
        self.container, self.loras = container, loras

    def ask(self, method: str, path: str, token: str = "secret", /, **more: Any) -> Any:
        return self.container.run(self.container.ask(method, path, token, **more))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("modal")
    with pytest.MonkeyPatch.context() as monkeypatch:
        (root / "modal.toml").write_text(EMBEDDED)
        module = load_app(root / "modal.toml", monkeypatch)
        for name, value in {"RYLA_TOKEN": "secret", "RYLA_HOME": str(root / "home"), "OMP_NUM_THREADS": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RYLA_VOLUME_REFRESH", "set by the container")  # And put back at the end.
        for name in ("committed", "mounted", "home/models"):
            (root / name).mkdir(parents=True)
        (root / "home" / "models" / "loras").symlink_to(root / "mounted")  # As the image has it.
        loras = Volume(root / "committed", root / "mounted")
        monkeypatch.setattr(module, "loras", loras)
        monkeypatch.setattr(module, "STATE", root / "state")
        with ModalContainer(module) as container:
            yield World(container, loras)


def test_a_picture_and_no_stranger(world: World) -> None:
    answer = world.ask("POST", "/flux-dev", **STAR)
    assert answer.status == 200, answer.body
    assert Image.open(io.BytesIO(answer.body)).format == "JPEG" and answer.headers["x-seed"] == "7"
    assert not answer.open
    assert world.ask("POST", "/flux-dev", "", **STAR).status == 401
    assert world.ask("GET", "/ready").json["ready"] is True


def test_the_three_endpoints(world: World) -> None:
    told = world.ask("GET", "/workflows").json["workflows"]
    assert {each["endpoint"] for each in told} == {"/flux-dev", "/flux-lora", "/flux-instantid"}


def test_a_lora_uploaded_after_the_start_is_found(world: World) -> None:
    shutil.copy(SHIPPED_LORA, world.loras.committed / "character-anna.safetensors")
    answer = world.ask("POST", "/flux-lora", **{**STAR, "lora_id": "anna"})
    assert answer.status == 200, answer.body
    assert answer.headers["x-lora-used"] == "anna"


def test_a_lora_that_is_nowhere_costs_one_reload(world: World) -> None:
    before = world.loras.reloads
    answer = world.ask("POST", "/flux-lora", **{**STAR, "lora_id": "nobody"})
    assert (answer.status, answer.json["code"]) == (404, "lora_not_found")
    assert world.loras.reloads == before + 1


def test_a_reload_beside_an_open_file_is_tried_again(world: World) -> None:
    world.loras.failures = ["there are open files preventing the operation: path x is open"] * 2
    shutil.copy(SHIPPED_LORA, world.loras.committed / "character-berta.safetensors")
    assert world.ask("POST", "/flux-lora", **{**STAR, "lora_id": "berta"}).status == 200
    assert not world.loras.failures


def test_a_volume_that_cannot_be_reloaded_says_why(world: World) -> None:
    world.loras.failures = ["the volume was deleted"]
    answer = world.ask("POST", "/flux-lora", **{**STAR, "lora_id": "carla"})
    assert (answer.status, answer.json["code"]) == (503, "volume_refresh_failed")
    assert "the volume was deleted" in answer.json["detail"]


def test_a_job_in_the_background_keeps_its_container(world: World) -> None:
    async def work() -> None:
        later = [("prefer", "respond-async")]
        call = await world.container.begin("POST", "/flux-dev", "secret", later, **{**STAR, "steps": 6, "seed": 8})
        while not call.answered:
            await asyncio.sleep(0.01)
        assert call.status == 202
        job = f"/jobs/{call.json['id']}"
        state = (await world.container.ask("GET", job, "secret")).json["state"]
        assert state in ("queued", "running") and call.open
        await asyncio.wait_for(call.task, 60)
        assert (await world.container.ask("GET", job, "secret")).json["state"] == "succeeded"

    world.container.run(work())


# --- the command -----------------------------------------------------------------------------------------------------


def ryla(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    unset = {"RYLA_TOKEN", "HF_TOKEN", "RYLA_MODAL", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", "deploy", "modal", *arguments],
        env={**environment, "MODAL_CONFIG_PATH": "/nowhere/modal.toml", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_commands_are_told_and_hold_no_secret() -> None:
    done = ryla(RYLA_TOKEN="hush", HF_TOKEN="hush")
    app = REPO / "deploy" / "modal_app.py"
    assert done.stdout.splitlines() == [
        'modal secret create ryla RYLA_TOKEN="$RYLA_TOKEN"',
        'modal secret create ryla-hub HF_TOKEN="$HF_TOKEN"',
        f"modal run {app}::install --names=flux-dev,flux-lora,flux-instantid",
        f"modal deploy {app}",
    ]
    assert "hush" not in done.stderr


def test_the_embedded_engine_needs_no_weights(tmp_path: Path) -> None:
    told = tmp_path / "modal.toml"
    told.write_text(EMBEDDED)
    lines = ryla("--settings", str(told)).stdout.splitlines()
    assert [line.split("modal ")[1].split()[0] for line in lines] == ["secret", "deploy"]
    assert all(line.startswith(f"RYLA_MODAL={told} ") for line in lines)


def test_a_secret_that_is_not_set_is_named_before_anything_runs() -> None:
    done = ryla("--run", "--json", RYLA_TOKEN="hush")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, "token_required") and "HF_TOKEN" in error["message"]
    assert error["hint"] == "export HF_TOKEN=..."


def test_a_command_of_modal_that_fails_is_the_last(tmp_path: Path) -> None:
    done = ryla("--run", "--json", RYLA_TOKEN="hush", HF_TOKEN="hush")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (5, "deployment_failed") and "::install" in error["message"]
    assert "Token missing" in done.stderr and "hush" not in done.stderr
