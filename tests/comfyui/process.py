"""A real ComfyUI as a child process: one fresh base directory, one free port, one log."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

REPO = Path(__file__).resolve().parents[2]
FOLDERS = (
    "checkpoints", "clip_vision", "controlnet", "diffusion_models", "embeddings", "insightface",
    "instantid", "loras", "text_encoders", "upscale_models", "vae",
)  # fmt: skip


@dataclass(frozen=True)
class Install:
    """A ComfyUI source tree and the Python that runs it."""

    root: Path
    python: Path

    @property
    def version(self) -> tuple[int, ...]:
        text = (self.root / "comfyui_version.py").read_text().split('"')[1]
        return tuple(int(part) for part in text.split("."))

    def probe(
        self, script: str, *arguments: object, timeout: float, environ: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """What a script of this folder prints on its last line, run by this ComfyUI's Python on its code."""
        command = [self.python, Path(__file__).with_name(script), self.root, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environ, timeout=timeout)
        assert done.returncode == 0, done.stderr[-4000:]
        return dict(json.loads(done.stdout.splitlines()[-1]))


def working_tree(target: Path) -> Path:
    """Copy what a clone of this repository would hold, uncommitted work included, to ``target``."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = REPO / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


@dataclass(frozen=True)
class Boot:
    """How to start a ComfyUI; equal ones share a server within a test session.

    Attributes:
        route: how our pack gets in: ``clone`` (a copy of the repository in custom_nodes), ``paths``
            (extra_model_paths.yaml pointing at the repository's custom_nodes) or ``none``.
        packs: further node packs (a ``.py`` file or a folder each), put into custom_nodes.
        models: folders laid out like ComfyUI's ``models/``, added by extra_model_paths.yaml.
        environ: environment variables to add.
        arguments: command line arguments to add.
        cpu: run without a GPU.
    """

    route: str = "paths"
    packs: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()
    environ: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    cpu: bool = True


@dataclass
class ComfyUI:
    """A running ComfyUI. Start it with ``start``; every started one is stopped by its fixture."""

    install: Install
    base: Path
    process: subprocess.Popen[bytes]
    url: str
    http: httpx.Client = field(repr=False)

    @classmethod
    def start(cls, install: Install, base: Path, boot: Boot, timeout: float = 180) -> ComfyUI:
        """Boot in ``base`` (an empty folder) and wait until it answers; the log's end is in the error."""
        _prepare(base, boot)
        port = _free_port()
        command = [str(install.python), "main.py", "--listen", "127.0.0.1", "--port", str(port),
                   "--base-directory", str(base), "--database-url", f"sqlite:///{base}/user/comfyui.db",
                   "--extra-model-paths-config", str(base / "extra_model_paths.yaml"),
                   "--disable-auto-launch", "--disable-api-nodes", *(["--cpu"] if boot.cpu else []),
                   *boot.arguments]  # fmt: skip
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RYLA_"))}
        with (base / "comfyui.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=install.root,
                env=environ | dict(boot.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        server = cls(install, base, process, url, httpx.Client(base_url=url, timeout=60, trust_env=False))
        try:
            server._wait(timeout)
        except BaseException:
            server.stop()
            raise
        return server

    def _wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"ComfyUI ended with {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                self.http.get("/system_stats").raise_for_status()
            except httpx.TransportError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError(f"ComfyUI did not answer within {timeout} s:\n{self.log[-4000:]}")

    def stop(self) -> None:
        """Stop the process group and wait for it; safe to call twice."""
        self.http.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
                try:
                    self.process.wait(15)
                except subprocess.TimeoutExpired:
                    continue

    @property
    def log(self) -> str:
        """Everything it printed so far, without colours and the level of plain information."""
        text = (self.base / "comfyui.log").read_text(errors="replace")
        return re.sub(r"^\[INFO\] ", "", re.sub(r"\x1b\[\d*m", "", text), flags=re.MULTILINE)

    @property
    def output(self) -> Path:
        return self.base / "output"

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def submit(self, graph: Mapping[str, Any], **fields: Any) -> httpx.Response:
        """POST /prompt as it is; the caller looks at the status."""
        return self.http.post("/prompt", json={"prompt": graph, **fields})

    def run(self, graph: Mapping[str, Any], timeout: float = 300, **fields: Any) -> dict[str, Any]:
        """Run ``graph`` to its end and return its history entry, whether it succeeded or not."""
        answer = self.submit(graph, **fields)
        assert answer.status_code == 200, answer.text
        assert not answer.json().get("node_errors"), answer.text
        prompt_id = answer.json()["prompt_id"]
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and "status_str" in entry["status"]:
                return dict(entry)
            assert self.process.poll() is None, self.log[-4000:]
            time.sleep(0.05)
        raise AssertionError(f"{prompt_id} did not end within {timeout} s:\n{self.log[-4000:]}")

    def succeed(self, graph: Mapping[str, Any], timeout: float = 300, **fields: Any) -> dict[str, Any]:
        """Run ``graph``, require success, and return its outputs by node id."""
        entry = self.run(graph, timeout, **fields)
        assert entry["status"]["status_str"] == "success", failure(entry)
        return dict(entry["outputs"])

    def fail(self, graph: Mapping[str, Any], timeout: float = 300) -> dict[str, Any]:
        """Run ``graph``, require that a node raises, and return the ``execution_error`` data."""
        entry = self.run(graph, timeout)
        assert entry["status"]["status_str"] == "error", entry["status"]
        return failure(entry)

    def files(self, outputs: Mapping[str, Any], node: str) -> list[Path]:
        """The saved pictures of one output node."""
        return [self.output / image["subfolder"] / image["filename"] for image in outputs[node]["images"]]


def failure(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The data of the ``execution_error`` message of a history entry ({} when there is none)."""
    return next((dict(data) for kind, data in entry["status"]["messages"] if kind == "execution_error"), {})


def _prepare(base: Path, boot: Boot) -> None:
    for name in ("custom_nodes", "user", "input", "output", "models"):
        (base / name).mkdir(parents=True)
    for pack in boot.packs:
        (base / "custom_nodes" / pack.name).symlink_to(pack.resolve())
    if boot.route == "clone":
        working_tree(base / "custom_nodes" / "ryla-nodes")
    (base / "extra_model_paths.yaml").write_text(yaml.safe_dump(_extra_paths(boot.models, boot.route == "paths")))


def _extra_paths(models: Sequence[Path], pack: bool) -> dict[str, Any]:
    sections: dict[str, Any] = {
        f"models{index}": {"base_path": str(folder.resolve()), **{name: name for name in FOLDERS}}
        for index, folder in enumerate(models)
    }
    if pack:
        sections["ryla"] = {"custom_nodes": str(REPO / "custom_nodes")}
    return sections


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
