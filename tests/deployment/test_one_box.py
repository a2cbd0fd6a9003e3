"""One machine with one or two GPUs: the systemd unit, the Compose files, and Caddy before the gateway.

The ExecStart line and the command of the Compose file are run as they stand, in folders of the test. What they take for
a ComfyUI is a folder like one, whose main.py starts the embedded engine.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from deployment.unit_file import Unit
from PIL import Image
from ryla_nodes.errors import REGISTRY

REPO = Path(__file__).resolve().parents[2]
DEPLOY = REPO / "deploy"
STAR = {"prompt": "a red star, cream background", "width": 256, "height": 256, "steps": 1, "seed": 7}
TOKEN = {"Authorization": "Bearer secret"}
MAIN = """
import argparse, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--user-directory", default=".")
for name in ("output", "input", "temp"):
    parser.add_argument(f"--{name}-directory")
for name in ("listen", "port", "database-url"):
    parser.add_argument(f"--{name}")
for name in ("disable-auto-launch", "cpu"):
    parser.add_argument(f"--{name}", action="store_true")
told = parser.parse_args()
if not os.path.isdir(told.user_directory):
    parser.error(f"The path {told.user_directory!r} does not exist.")  # As ComfyUI does.
print("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
run = "from ryla_nodes.cli.app import main; main()"
os.execv(sys.executable, [sys.executable, "-c", run, "engine", "--port", told.port, "--home", told.user_directory])
"""


class Box:
    """The folders of one machine, below a folder of the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.comfyui = root / "opt/ryla/ComfyUI"
        for folder in ("opt/ryla/venv/bin", "var/lib/ryla", "volume", "opt/ryla/ComfyUI/.venv/bin"):
            (root / folder).mkdir(parents=True)
        for name in ("comfy", "comfy_extras"):
            (self.comfyui / name).mkdir()
        (self.comfyui / "nodes.py").touch()
        (self.comfyui / "main.py").write_text(MAIN)
        self._program(self.comfyui / ".venv/bin/python", f'exec {sys.executable} "$@"')
        code = "import sys; from ryla_nodes.cli.app import main; main()"
        self._program(root / "opt/ryla/venv/bin/ryla", f'exec {sys.executable} -c {shlex.quote(code)} "$@"')

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def here(self, text: str) -> str:
        """A text with the machine's folders as they are below this one."""
        return re.sub(r"(?<![\w.])/(?=(opt/ryla|var/lib/ryla|volume|state)\b)", f"{self.root}/", text)

    @contextmanager
    def running(self, command: list[str], environment: dict[str, str], url: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process while it is ready; at the end it is told to end, as systemd and Docker do."""
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **{name: self.here(v) for name, v in environment.items()}}
        log = self.root / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.here(word) for word in command], env=variables, stdout=output, stderr=output
            )
        try:
            end = time.monotonic() + 90
            while not _ready(url):
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            yield process
            process.terminate()
            assert process.wait(90) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def told(root: Path, port: int, **more: str) -> Path:
    """The patterns of site.env and ryla.env in one, filled in."""
    given = {"RYLA_TOKEN": "secret", "SITE": "images.test", "PORT": str(port), **more}
    lines = [line for name in ("site", "ryla") for line in (DEPLOY / f"systemd/{name}.env").read_text().splitlines()]
    names = {line.split("=")[0] for line in lines}
    assert set(given) <= names, "the pattern has to have each"
    path = root / "ryla.env"
    filled = [f"{name}={given[name]}" if (name := line.split("=")[0]) in given else line for line in lines]
    path.write_text("\n".join(filled))
    return path


# --- systemd ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "ryla.service").read_text().replace("/opt/ryla/venv/bin/ryla", "/bin/echo")
    (tmp_path / "ryla.service").write_text(unit)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "ryla.service"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_s_line_serves_pictures(tmp_path: Path) -> None:
    box, port = Box(tmp_path), _free_port()
    unit = Unit.read(DEPLOY / "systemd" / "ryla.service")
    environment = unit.environment(told(tmp_path, port, GPUS="0,1", COMFYUI_ARGS="--cpu"))
    for name in unit.settings["StateDirectory"].split():
        (tmp_path / "var/lib" / name).mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    with box.running(unit.command(environment), environment, url):
        answer = httpx.post(f"{url}/flux-dev", json=STAR, headers=TOKEN, timeout=90, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert Image.open(io.BytesIO(answer.content)).size == (256, 256)
        named = httpx.get(f"{url}/workflows", headers={**TOKEN, "Host": "images.test"}, trust_env=False)
        assert named.status_code == 200
        engines = httpx.get(f"{url}/ready", headers=TOKEN, trust_env=False).json()["engines"]
        assert len(engines) == 2
    logs = sorted((tmp_path / "var/lib/ryla/gateway/engines").glob("*.log"))
    firsts = [log.read_text().splitlines()[0] for log in logs]
    assert firsts == ["CUDA_VISIBLE_DEVICES 0", "CUDA_VISIBLE_DEVICES 1"]


def test_the_unit_does_not_start_without_a_token(tmp_path: Path) -> None:
    box = Box(tmp_path)
    unit = Unit.read(DEPLOY / "systemd" / "ryla.service")
    environment = unit.environment(told(tmp_path, 1, RYLA_TOKEN=""))
    command = [box.here(word) for word in unit.command(environment)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    status = REGISTRY["token_required"].exit_status
    assert done.returncode == status and "there is no token" in done.stderr
    assert unit.settings["RestartPreventExitStatus"] == str(status)  # It is not started again and again.


def test_the_token_is_kept_from_caddy() -> None:
    """Debian's unit of Caddy writes its environment into the journal."""
    assert Unit.read(DEPLOY / "systemd" / "caddy.conf").settings["EnvironmentFile"] == "/etc/ryla/site.env"
    assert "TOKEN" not in (DEPLOY / "systemd" / "site.env").read_text()


def test_each_folder_on_the_way_is_the_unit_s_own() -> None:
    """systemd gives the user the folders that are listed, not those between."""
    listed = Unit.read(DEPLOY / "systemd" / "ryla.service").settings["StateDirectory"].split()
    assert all(str(parent) in listed for name in listed for parent in Path(name).parents if parent.name)


# --- Compose ---------------------------------------------------------------------------------------------------------


def composed(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The file as Compose reads it."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    environment = {"PATH": os.environ["PATH"], **variables}
    command = [program, "-f", str(DEPLOY / "compose" / name), "config"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_compose_takes_the_files(tmp_path: Path) -> None:
    done = composed("compose.yaml", RYLA_TOKEN="s", SITE="images.test", VOLUME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    gateway = yaml.safe_load(done.stdout)["services"]["gateway"]
    (device,) = gateway["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"] and f"{tmp_path}:/volume:rw" in gateway["volumes"]
    assert composed("compose.embedded.yaml", RYLA_TOKEN="s").returncode == 0


@pytest.mark.parametrize("missing", ["RYLA_TOKEN", "SITE", "VOLUME"])
def test_compose_says_what_is_not_set(missing: str) -> None:
    given = {"RYLA_TOKEN": "s", "SITE": "images.test", "VOLUME": "/volume"}
    del given[missing]
    done = composed("compose.yaml", **given)
    assert done.returncode != 0 and f"Write {missing}=" in done.stderr


def test_every_variable_of_the_compose_file_is_in_its_pattern() -> None:
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose" / "compose.yaml").read_text()))
    pattern = set(re.findall(r"^#? ?(\w+)=", (DEPLOY / "compose" / "env.example").read_text(), re.M))
    assert used == pattern


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a gateway that was started by the Compose file's command in the image's environment."""
    box, port = Box(tmp_path_factory.mktemp("compose")), _free_port()
    service = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]["gateway"]
    filled = _interpolated(service["command"], {"GPUS": "", "COMFYUI_ARGS": "--cpu"})
    words = [word.replace("0.0.0.0", "127.0.0.1") for word in shlex.split(filled)]
    command = ["/opt/ryla/venv/bin/ryla", words[0], "--port", str(port), *words[1:]]
    docker = (DEPLOY / "image" / "Dockerfile").read_text()
    environment = dict(re.findall(r"(RYLA_HOME|RYLA_VOLUME)=(\S+)", docker)) | {"RYLA_TOKEN": "secret"}
    with box.running(command, environment, url := f"http://127.0.0.1:{port}"):
        yield url


def test_the_command_of_the_compose_file_serves_pictures(gateway: str) -> None:
    answer = httpx.post(f"{gateway}/flux-dev", json=STAR, headers=TOKEN, timeout=90, trust_env=False)
    assert answer.status_code == 200, answer.text


def _interpolated(text: str, given: dict[str, str]) -> str:
    """Compose's ``${NAME-default}``."""
    return re.sub(r"\$\{(\w+)-([^}]*)\}", lambda found: given.get(found[1], found[2]), text)


# --- Caddy -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")
def test_a_picture_and_events_over_https(gateway: str, tmp_path: Path) -> None:
    secure = _free_port()
    general = "admin off\nskip_install_trust\nauto_https disable_redirects\n"
    (tmp_path / "Caddyfile").write_text(f"{{\n{general}}}\nimport {DEPLOY / 'caddy' / 'Caddyfile'}\n")
    variables = {
        **os.environ, "SITE": f"localhost:{secure}", "PORT": gateway.rpartition(":")[2],
        "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }  # fmt: skip
    command = ["caddy", "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]
    with (tmp_path / "caddy.log").open("wb") as log:
        caddy = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        _over_https(f"https://localhost:{secure}", tmp_path / "data/caddy/pki/authorities/local/root.crt")
    finally:
        caddy.terminate()
        caddy.wait(30)


def _over_https(url: str, root: Path) -> None:
    end = time.monotonic() + 30
    while not root.exists():
        assert time.monotonic() < end, "Caddy made no certificate"
        time.sleep(0.1)
    with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=str(root)), trust_env=False) as http:
        while not _answers(http):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert http.post("/flux-dev", json=STAR, timeout=90).status_code == 401
        answer = http.post("/flux-dev", json=STAR, headers=TOKEN, timeout=90)
        assert answer.status_code == 200 and Image.open(io.BytesIO(answer.content)).format == "JPEG"
        later = http.post("/flux-dev", json={**STAR, "steps": 8}, headers={**TOKEN, "Prefer": "respond-async"})
        with http.stream("GET", f"{later.headers['location']}/events", headers=TOKEN, timeout=60) as events:
            seen = [(line, time.monotonic()) for line in events.iter_lines() if line.startswith("event:")]
        steps = [at for line, at in seen if line == "event: step"]
        assert seen[-1][0] == "event: done" and len(steps) >= 4
        assert steps[-1] - steps[0] > 0.01  # They came one by one, not held back until the end.


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.HTTPError:
        return False
