"""``ryla doctor`` on a healthy set-up, and on set-ups that are each broken in one way."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
from ryla_nodes.cli.doctor import comfyui as doctor_comfyui
from ryla_nodes.cli.doctor import command
from ryla_nodes.cli.doctor import engine as doctor_engine
from ryla_nodes.cli.doctor.finding import Finding
from ryla_nodes.errors import RylaError
from ryla_nodes.models import catalogue
from typer.testing import CliRunner
from unit import models_standins
from unit.models_world import World, world

PACK = Path(command.__file__).parents[2]
FACES = {"cv2": "", "insightface": "", "onnxruntime": "def get_available_providers(): return ['CPUExecutionProvider']"}


@dataclass
class Machine:
    """A healthy machine: a ComfyUI with its Python, the pack, a GPU and the models of all workflows."""

    world: World
    root: Path

    @property
    def comfyui(self) -> Path:
        return self.root / "ComfyUI"

    @property
    def site(self) -> Path:
        return self.root / "site"

    @property
    def models(self) -> Path:
        return self.comfyui / "models"

    def distribution(self, name: str, version: str) -> None:
        """Let ComfyUI's Python have a package."""
        folder = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def without(self, name: str) -> None:
        """Take a package out of ComfyUI's Python."""
        for folder in self.site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(folder)

    def program(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def gpu(self, text: str) -> None:
        self.program(self.root / "bin" / "nvidia-smi", f"echo '{text}'")

    def install(self) -> None:
        for name in ("comfy", "comfy_extras", "comfy_api", "custom_nodes"):
            (self.comfyui / name).mkdir(parents=True)
        for name in ("main.py", "nodes.py"):
            (self.comfyui / name).touch()
        (self.comfyui / "comfyui_version.py").write_text('__version__ = "0.33.0"\n')
        (self.comfyui / "custom_nodes" / "ryla_nodes").symlink_to(PACK)
        # -S: only the packages below, not those of the Python that runs the tests.
        self.program(
            self.comfyui / ".venv" / "bin" / "python", f'PYTHONPATH="{self.site}" exec {sys.executable} -S "$@"'
        )
        for text in importlib.metadata.requires("ryla-nodes") or []:
            if "extra" not in text:
                self.distribution(re.split(r"[<>=; ]", text)[0], "9999.0")
        for name, version in {"onnxruntime": "1.20", "opencv-python-headless": "4.10", "insightface": "2.1"}.items():
            self.distribution(name, version)
        self.distribution("torch", "2.13.0")
        for name, source in {**FACES, "torch/__init__": "", "torch/version": "cuda = '12.8'"}.items():
            (self.site / f"{name}.py").parent.mkdir(exist_ok=True)
            (self.site / f"{name}.py").write_text(source)
        self.gpu("NVIDIA H100 80GB HBM3, 81559")
        names = ["flux1-dev", "clip_l", "t5xxl_fp16", "ae", "realvisxl-v5"]
        names += ["instantid-adapter", "instantid-controlnet", "antelopev2", "buffalo_l-w600k_r50"]
        self.world.publish(names)
        for name, data in self.world.contents.items():
            self.put(name, data)

    def put(self, model_id: str, data: bytes) -> Path:
        entry = self.world.catalogue.get(model_id)
        path = self.models / entry.folder / entry.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def doctor(self, *arguments: str, **environment: str) -> tuple[dict[str, dict[str, str]], int]:
        """Run it; the findings by check, and the exit status."""
        app = typer.Typer()
        app.command()(command.doctor)
        variables = {
            **self.world.environment,
            "RYLA_COMFYUI": str(self.comfyui),
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "VIRTUAL_ENV": "",
            **environment,
        }
        # PyTorch takes seconds to import; the embedded engine has tests of its own.
        told = {"torch": "2.13.0+cpu", "gpu": ""}
        with mock.patch.dict(os.environ, variables), mock.patch.object(doctor_engine, "_ask", lambda: told):
            result = CliRunner().invoke(app, [*arguments, "--json"])
        if isinstance(result.exception, RylaError):
            assert result.exception.code == "setup_problems"
            findings, status = result.exception.details["findings"], result.exception.entry.exit_status
        else:
            assert result.exception is None or result.exit_code == 0, result.exception
            findings, status = json.loads(result.stdout)["findings"], 0
        by_check: dict[str, dict[str, str]] = {}
        for item in findings:
            if item["level"] != "ok" or item["check"] not in by_check:
                by_check[item["check"]] = item
        return by_check, status


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with world(tmp_path) as made:
        ready = Machine(made, tmp_path)
        ready.install()
        yield ready


def test_a_healthy_machine_has_no_findings_against_it(machine: Machine) -> None:
    findings, status = machine.doctor()
    assert status == 0 and {item["level"] for item in findings.values()} == {"ok"}, findings
    assert {"comfyui", "pack", "python", "torch", "gpu", "flux-dev", "flux-instantid", "disk"} <= set(findings)
    assert findings["pack"]["message"].endswith("(linked)")


def _no_comfyui(machine: Machine) -> None:
    shutil.rmtree(machine.comfyui)


def _too_old(machine: Machine) -> None:
    (machine.comfyui / "comfyui_version.py").write_text('__version__ = "0.3.40"\n')


def _python_gone(machine: Machine) -> None:
    python = machine.comfyui / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/lib/python3.8-that-was-removed/bin/python3")


def _no_pack(machine: Machine) -> None:
    (machine.comfyui / "custom_nodes" / "ryla_nodes").unlink()


def _pack_twice(machine: Machine) -> None:
    clone = machine.comfyui / "custom_nodes" / "ryla-nodes" / "custom_nodes" / "ryla_nodes"
    clone.mkdir(parents=True)
    (clone / "extension.py").touch()


def _pack_disabled(machine: Machine) -> None:
    place = machine.comfyui / "custom_nodes" / "ryla_nodes"
    place.rename(place.with_name("ryla_nodes.disabled"))


def _pack_link_broken(machine: Machine) -> None:
    place = machine.comfyui / "custom_nodes" / "ryla_nodes"
    place.unlink()
    place.symlink_to(machine.root / "moved" / "ryla_nodes")


def _requirement_missing(machine: Machine) -> None:
    machine.without("websocket-client")


def _requirement_old(machine: Machine) -> None:
    machine.without("rich")
    machine.distribution("rich", "9.1")


def _both_onnxruntimes(machine: Machine) -> None:
    machine.distribution("onnxruntime-gpu", "1.20")


def _both_opencvs(machine: Machine) -> None:
    machine.distribution("opencv-python", "4.10")


def _opencv_without_libgl(machine: Machine) -> None:
    (machine.site / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")


def _insightface_against_another_numpy(machine: Machine) -> None:
    (machine.site / "insightface.py").write_text("raise ValueError('numpy.dtype size changed')")


def _insightface_old(machine: Machine) -> None:
    machine.without("insightface")
    machine.distribution("insightface", "0.7.3")


def _torch_for_the_cpu(machine: Machine) -> None:
    (machine.site / "torch" / "version.py").write_text("cuda = None")


def _truncated_model(machine: Machine) -> None:
    machine.put("clip_l", machine.world.contents["clip_l"][:-20])


def _html_instead_of_a_model(machine: Machine) -> None:
    machine.put("flux1-dev", b"<!DOCTYPE html><title>Sign in</title>")


def _wrong_family(machine: Machine) -> None:
    machine.put("flux1-dev", models_standins.safetensors(models_standins.SDXL))


def _dangling_link(machine: Machine) -> None:
    path = machine.models / "vae" / "ae.safetensors"
    path.unlink()
    path.symlink_to("/volume-that-moved/vae/ae.safetensors")


def _nested_antelopev2(machine: Machine) -> None:
    folder = machine.models / "insightface" / "models" / "antelopev2"
    folder.rename(folder.with_name("moving"))
    folder.mkdir()
    folder.with_name("moving").rename(folder / "antelopev2")


def _broken_yaml(machine: Machine) -> None:
    (machine.comfyui / "extra_model_paths.yaml").write_text("a: [")


BROKEN: list[tuple[Callable[[Machine], None], str, str, str]] = [
    (_no_comfyui, "comfyui", "is not the folder of a ComfyUI", "ryla comfyui install"),
    (_too_old, "comfyui version", "0.3.40 is older than 0.3.64", "comfy update"),
    (_python_gone, "python", "does not work", "ryla comfyui install"),
    (_no_pack, "pack", "The pack is in none of", "ryla comfyui install"),
    (_pack_twice, "pack", "there 2 times", "Delete all but one"),
    (_pack_disabled, "pack", "is disabled", "Rename it to ryla_nodes"),
    (_pack_link_broken, "pack", "is a broken link", "ryla comfyui install"),
    (_requirement_missing, "requirements", "lacks websocket-client>=", "pip install 'websocket-client>="),
    (_requirement_old, "requirements", "lacks rich>=12.6", "pip install 'rich>=12.6'"),
    (_both_onnxruntimes, "onnxruntime", "overwrite each other", "uninstall -y onnxruntime onnxruntime-gpu"),
    (_both_opencvs, "opencv", "overwrite each other", "uninstall -y opencv-python opencv-python-headless"),
    (_opencv_without_libgl, "opencv", "libGL.so.1", "opencv-python-headless"),
    (_insightface_against_another_numpy, "insightface", "numpy.dtype size changed", "--force-reinstall"),
    (_insightface_old, "insightface", "0.7.3 is older than 2.0", "pip install 'insightface>=2.0'"),
    (_torch_for_the_cpu, "torch", "built for the CPU", "ryla comfyui install --nvidia"),
    (_truncated_model, "flux-dev", "clip_l.safetensors is truncated", "ryla models check flux-dev --repair"),
    (_html_instead_of_a_model, "flux-dev", "web page", "ryla models check flux-dev --repair"),
    (_wrong_family, "flux-dev", "is an SDXL checkpoint", "ryla models check flux-dev --repair"),
    (_dangling_link, "flux-dev", "ae.safetensors links to nothing", "ryla models check flux-dev --repair"),
    (_nested_antelopev2, "flux-instantid", "one level too deep", "ryla models install antelopev2"),
    (_broken_yaml, "model paths", "cannot be read as YAML", "Correct the file"),
]


@pytest.mark.parametrize(("damage", "check", "words", "fix"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_each_broken_set_up_is_named_with_its_fix(
    machine: Machine, damage: Callable[[Machine], None], check: str, words: str, fix: str
) -> None:
    damage(machine)
    findings, status = machine.doctor()
    assert status == 3
    assert (
        findings[check]["level"] == "problem" and words in findings[check]["message"] and fix in findings[check]["fix"]
    )


def test_only_what_is_broken_is_a_problem(machine: Machine) -> None:
    _both_opencvs(machine)
    findings, _ = machine.doctor()
    assert [name for name, item in findings.items() if item["level"] == "problem"] == ["opencv"]


def test_missing_models_are_a_problem_where_they_are_asked_for(machine: Machine) -> None:
    (machine.models / "instantid" / "ip-adapter.bin").unlink()
    findings, status = machine.doctor()
    assert status == 0 and findings["flux-instantid"]["level"] == "warning"
    findings, status = machine.doctor("--workflow", "flux-instantid")
    assert status == 3 and "Not there: instantid-adapter" in findings["flux-instantid"]["message"]
    assert findings["flux-instantid"]["fix"] == "ryla models install flux-instantid"
    shutil.rmtree(machine.models / "text_encoders")
    assert "flux-dev" in machine.doctor("--workflow", "flux-dev")[0]


def test_a_machine_without_any_model_is_not_well(machine: Machine) -> None:
    shutil.rmtree(machine.models)
    findings, status = machine.doctor()
    assert status == 3 and findings["flux-dev"]["fix"] == "ryla models install flux-dev"
    assert findings["token"]["level"] == "warning" and "HF_TOKEN" in findings["token"]["fix"]
    assert "token" not in machine.doctor(HF_TOKEN="hf_right")[0]


def test_why_faces_cannot_use_cuda_is_said(machine: Machine) -> None:
    machine.without("onnxruntime")
    machine.distribution("onnxruntime-gpu", "1.20")
    offers = "def get_available_providers(): return ['CUDAExecutionProvider', 'CPUExecutionProvider']"
    (machine.site / "onnxruntime.py").write_text(offers)
    libraries = [machine.site / "capi" / f"libonnxruntime_providers_{part}.so" for part in ("shared", "cuda")]
    libraries[0].parent.mkdir()
    # Any library that can be loaded will do for one of onnxruntime's.
    loadable = importlib.util.find_spec("_ctypes")
    assert loadable is not None and loadable.origin is not None
    shutil.copy(loadable.origin, libraries[0])
    libraries[1].write_text("damaged")
    findings, status = machine.doctor()
    assert status == 0 and findings["onnxruntime"]["level"] == "warning"
    assert f"on the CPU: {libraries[1]}: " in findings["onnxruntime"]["message"]
    assert "onnxruntime-gpu for CUDA 12.8" in findings["onnxruntime"]["fix"]
    shutil.copy(loadable.origin, libraries[1])
    assert machine.doctor()[0]["onnxruntime"]["level"] == "ok"
    machine.gpu("")
    libraries[1].unlink()
    assert machine.doctor()[0]["onnxruntime"]["level"] == "ok", "without a GPU nobody expects CUDA"


def test_gpu_memory_is_held_against_each_workflow(machine: Machine) -> None:
    big = '\n[[model]]\nid = "flux1-dev"\nsize = 23802932552\n'
    machine.world.contents.pop("flux1-dev")
    machine.world.extra = big
    machine.world.write_catalogue()
    machine.gpu("NVIDIA GeForce RTX 3060, 12288")
    findings, _ = machine.doctor()
    assert "12 GiB" in findings["gpu memory"]["message"] and "fp8" in findings["gpu memory"]["fix"]
    machine.gpu("No devices were found")
    assert machine.doctor()[0]["gpu"]["level"] == "warning"


def test_a_missing_volume_and_an_unmounted_extra_path(machine: Machine) -> None:
    findings, status = machine.doctor(RYLA_VOLUME=str(machine.root / "gone"))
    assert status == 3 and "is not there" in findings["volume"]["message"]
    (machine.comfyui / "extra_model_paths.yaml").write_text("a:\n  loras: /not/mounted\n")
    findings, status = machine.doctor()
    assert status == 0 and "/not/mounted" in findings["model paths"]["message"]


def test_the_floor_is_the_packs(machine: Machine) -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    floor = ".".join(map(str, doctor_comfyui.FLOOR))
    assert f'requires-comfyui = ">={floor}"' in text


@contextmanager
def _engine(answers: dict[str, Any]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


HEALTHY: dict[str, Any] = {
    "/system_stats": {
        "system": {"comfyui_version": "0.33.0"},
        "devices": [{"name": "cuda:0 NVIDIA H100", "type": "cuda", "vram_total": 85_000_000_000}],
    },
    "/object_info": {"KSampler": {}, "RYLA_FluxLoader": {}},
    "/queue": {"queue_running": [], "queue_pending": [[1], [2]]},
    "/models/diffusion_models": ["flux/flux1-dev.safetensors"],
    "/models/checkpoints": [],
    "/models/text_encoders": ["clip_l.safetensors", "t5xxl_fp8_e4m3fn.safetensors"],
    "/models/vae": ["ae.safetensors"],
}


def test_a_remote_engine_is_seen_through_its_api(machine: Machine) -> None:
    with _engine(HEALTHY) as url:
        findings, status = machine.doctor("--server", url, "--workflow", "flux-dev")
    assert status == 0 and {item["level"] for item in findings.values()} == {"ok"}, findings
    assert findings["queue"]["message"] == "0 running, 2 waiting"


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        ({"/object_info": {"KSampler": {}}}, "pack", "None of the engine's 1 node classes is ours"),
        ({"/system_stats": {"system": {"comfyui_version": "0.3.1"}}}, "comfyui version", "older than"),
        ({"/system_stats": b"<html>nginx</html>"}, "engine", "is not a ComfyUI"),
        ({"/system_stats": None}, "engine", "is not a ComfyUI: HTTP 404"),
        ({"/models/vae": []}, "flux-dev", "Not listed there: ae"),
    ],
)
def test_a_remote_engine_that_is_not_well(machine: Machine, change: dict[str, Any], check: str, words: str) -> None:
    with _engine({**HEALTHY, **change}) as url:
        findings, status = machine.doctor("--server", url, "--workflow", "flux-dev")
    assert status == 3 and words in findings[check]["message"] and findings[check]["fix"]


def test_a_remote_engine_that_is_not_there(machine: Machine) -> None:
    findings, status = machine.doctor("--server", "http://127.0.0.1:9")
    assert status == 3 and "No engine answers at http://127.0.0.1:9" in findings["engine"]["message"]


H200 = {"torch": "2.11.0", "gpu": "NVIDIA H200", "memory": 150 << 30, "free": 149 << 30}


def engine_findings(
    found: Any, *, gpu: bool = True, alone: bool = False, volume: Path | None = None
) -> dict[str, tuple[str, str]]:
    """What is said of the embedded engine, by check: level and message."""
    with mock.patch.object(doctor_engine, "_ask", lambda: found):
        made = doctor_engine.check(gpu, alone, {"flux-dev": ["flux1-dev", "t5xxl_fp16"]}, catalogue.load(), volume)
        return {finding.check: (finding.level, finding.message) for finding in made}


def test_the_embedded_engine_on_a_card(tmp_path: Path) -> None:
    found = engine_findings({**H200, "refusals": {"exact": None, "fast": None}}, volume=tmp_path)
    assert found == {
        "engine": ("ok", "The embedded engine paints on NVIDIA H200, 150 GiB (torch 2.11.0)."),
        "engine speed": ("ok", "exact and fast can be had"),
    }


def test_what_keeps_the_embedded_engine_from_being_fast_is_named() -> None:
    refusals = {"exact": None, "fast": "Triton is not installed"}
    found = engine_findings({**H200, "memory": 24 << 30, "refusals": refusals})
    assert found["engine memory"][0] == "warning" and "flux-dev takes" in found["engine memory"][1]
    assert found["engine speed"] == ("warning", "speed fast cannot be had: Triton is not installed.")
    assert "not kept" in found["engine cache"][1]


def test_an_embedded_engine_without_cuda_matters_where_there_is_nothing_else() -> None:
    found = {"torch": "2.13.0+cpu", "gpu": ""}
    assert engine_findings(found, gpu=False)["engine"][0] == engine_findings(found)["engine"][0] == "ok"
    level, message = engine_findings(found, alone=True)["engine"]
    assert level == "warning" and message == (
        "The embedded engine paints on the CPU (torch 2.13.0+cpu), though there is a GPU."
    )


def test_the_embedded_engine_tells_what_it_has() -> None:
    found = doctor_engine._ask()
    assert isinstance(found, dict) and found["torch"] == importlib.metadata.version("torch")


def test_an_embedded_engine_that_does_not_start_is_told() -> None:
    with mock.patch.object(doctor_engine, "_PROBE", "ryla_nodes.none"):
        found = doctor_engine._ask()
    assert isinstance(found, Finding) and "ryla_nodes.none" in found.message
