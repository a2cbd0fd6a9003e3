"""``ryla comfyui install`` with a comfy-cli that does what it is told, or fails in the ways the real one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from ryla_nodes.cli.comfyui import command
from ryla_nodes.cli.comfyui import install as comfyui_install
from ryla_nodes.errors import RylaError
from typer.testing import CliRunner

PACK = Path(comfyui_install.__file__).resolve().parents[2]


@dataclass
class Machine:
    """A machine with a fake ``comfy`` on PATH; what it does is in files."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "ComfyUI"

    def program(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def comfy(self, *, torch: bool = True, main: str = "", version: str = "0.33.0", status: int = 0) -> None:
        """Let ``comfy install`` make a ComfyUI, with or without its packages."""
        site, python = self.root / "site", self.root / "python"
        site.mkdir(exist_ok=True)
        self.program(
            python,
            f'if [ "$1" = -m ]; then echo "$@" >> {self.root}/pip.log; exit 0; fi\n'
            f'PYTHONPATH="{site}" exec {sys.executable} -S "$@"',
        )
        info = f"{site}/torch-2.13.0.dist-info"
        packages = f"mkdir -p {info}; printf 'Name: torch\\nVersion: 2.13.0\\n' > {info}/METADATA"
        self.program(
            self.root / "bin" / "comfy",
            f'echo "$@" >> {self.root}/comfy.log\n'
            f"mkdir -p {self.folder} && cd {self.folder} && mkdir -p comfy comfy_extras custom_nodes .venv/bin\n"
            f"touch {self.folder}/nodes.py\n"
            f"cp {python} {self.folder}/.venv/bin/python\n"
            f"printf '__version__ = \"{version}\"\\n' > {self.folder}/comfyui_version.py\n"
            f"cat > {self.folder}/main.py <<'END'\n{main or 'print(1)'}\nEND\n"
            f"{packages if torch else 'echo ERROR: No matching distribution found for torch'}\n"
            f"exit {status}",
        )

    def install(self, *arguments: str) -> tuple[dict[str, object], int]:
        """Run it: its JSON object (or the error's) and the exit status."""
        environment = {"PATH": f"{self.root / 'bin'}:/usr/bin:/bin", "HOME": str(self.root), "VIRTUAL_ENV": "/active"}
        beside = mock.patch.object(comfyui_install.sys, "executable", str(self.root / "nowhere" / "python"))
        with mock.patch.dict(os.environ, environment), beside:
            result = CliRunner().invoke(
                command.app, ["install", "--path", str(self.folder), "--cpu", *arguments, "--json"]
            )
        if isinstance(result.exception, RylaError):
            return result.exception.as_dict(), result.exception.entry.exit_status
        assert result.exit_code == 0, result.exception
        return json.loads(result.stdout), 0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield Machine(tmp_path)


def test_comfyui_the_pack_and_its_packages_are_installed_and_started(machine: Machine) -> None:
    machine.comfy(main="import sys; open('started', 'w').write(' '.join(sys.argv))")
    answer, _ = machine.install("--url", "/mirror/ComfyUI.git")
    assert answer["version"] == "0.33.0" and answer["pack"] == str(machine.folder / "custom_nodes" / "ryla_nodes")
    asked = (machine.root / "comfy.log").read_text()
    assert f"--workspace {machine.folder} install --version {comfyui_install.COMFYUI} --cpu" in asked
    assert "--url /mirror/ComfyUI.git" in asked and asked.startswith("--skip-prompt")
    assert (machine.folder / "custom_nodes" / "ryla_nodes").resolve() == PACK
    assert "safetensors>=0.4.2" in (machine.root / "pip.log").read_text()
    assert (machine.folder / "started").read_text() == "main.py --quick-test-for-ci --cpu"
    # Again: nothing is installed twice.
    machine.install()
    assert len((machine.root / "comfy.log").read_text().splitlines()) == 1


def test_success_without_a_comfyui_is_a_failure(machine: Machine) -> None:
    machine.program(machine.root / "bin" / "comfy", "echo 'Node not found'; exit 0")
    error, status = machine.install()
    assert (error["code"], status) == ("comfyui_install_failed", 4) and "exit status 0" in str(error["message"])


def test_the_reason_is_the_first_error_and_not_the_traceback(machine: Machine) -> None:
    text = "echo \"fatal: repository '/nowhere' does not exist\"; for i in 1 2 3 4 5; do echo '| line |'; done; exit 1"
    machine.program(machine.root / "bin" / "comfy", text)
    error, _ = machine.install()
    assert "fatal: repository '/nowhere' does not exist" in str(error["message"])


def test_packages_that_are_missing_are_asked_for_again_and_then_named(machine: Machine) -> None:
    machine.comfy(torch=False)
    error, status = machine.install()
    assert status == 4 and "has no torch" in str(error["message"]) and "--restore" in str(error["hint"])
    assert "--restore" in (machine.root / "comfy.log").read_text().splitlines()[1]


def test_a_comfyui_that_does_not_start(machine: Machine) -> None:
    machine.comfy(main="raise SystemExit('ImportError: libGL.so.1')")
    error, status = machine.install()
    assert status == 4 and "does not start" in str(error["message"]) and "libGL" in str(error["message"])


def test_a_pack_that_does_not_load(machine: Machine) -> None:
    machine.comfy(main="print('   0.0 seconds (IMPORT FAILED): /x/custom_nodes/ryla_nodes')")
    error, status = machine.install()
    assert status == 4 and "could not load the pack" in str(error["message"])


def test_another_version_is_not_passed_off_as_the_wanted_one(machine: Machine) -> None:
    machine.comfy(version="0.3.70")
    assert machine.install()[1] == 0
    error, status = machine.install("--version", "0.33.0")
    assert status == 4 and "is ComfyUI 0.3.70, not 0.33.0" in str(error["message"])


def test_one_that_is_too_old_is_refused(machine: Machine) -> None:
    machine.comfy(version="0.3.40")
    error, status = machine.install()
    assert status == 4 and "older than 0.3.64" in str(error["message"])


def test_a_real_folder_in_the_packs_place_is_not_replaced(machine: Machine) -> None:
    machine.comfy()
    mine = machine.folder / "custom_nodes" / "ryla_nodes"
    mine.mkdir(parents=True)
    (mine / "mine.py").touch()
    error, status = machine.install()
    assert status == 4 and (mine / "mine.py").exists(), error


def test_without_comfy_cli_the_command_that_gets_it_is_named(machine: Machine) -> None:
    error, status = machine.install()
    assert (error["code"], status) == ("comfy_cli_missing", 3)
    assert f"comfy-cli=={comfyui_install.COMFY_CLI}" in str(error["hint"])


def ends(pid: Path) -> bool:
    """Whether the process whose id is in a file ends within seconds; one that nobody has waited for yet has ended."""
    status = Path(f"/proc/{pid.read_text().strip()}/stat")
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            if status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="Does not apply: processes are looked at in /proc")
def test_a_program_that_hangs_is_stopped_with_all_that_it_started(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfyui_install, "_INSTALL_WITHIN", 1.0)
    pid = machine.root / "pid"
    machine.program(machine.root / "bin" / "comfy", f"echo fetching; sh -c 'echo $$ > {pid}; exec sleep 60' & sleep 60")
    began = time.monotonic()
    error, status = machine.install()
    assert time.monotonic() - began < 10
    assert (error["code"], status) == ("comfyui_install_failed", 4)
    assert "not done within 1 s; its last line: fetching" in str(error["message"])
    assert ends(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="Does not apply: processes are looked at in /proc")
def test_the_deadline_holds_for_one_that_left_the_group(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfyui_install, "_INSTALL_WITHIN", 1.0)
    monkeypatch.setattr(comfyui_install, "_LAST_WORDS", 0.2)
    pid = machine.root / "pid"
    machine.program(machine.root / "bin" / "comfy", f"setsid sh -c 'echo $$ > {pid}; exec sleep 20' & sleep 60")
    began = time.monotonic()
    assert machine.install()[0]["code"] == "comfyui_install_failed"
    assert time.monotonic() - began < 10
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_what_a_program_leaves_behind_with_its_output_open_is_not_waited_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfyui_install, "_LAST_WORDS", 0.2)
    machine.comfy(main="import subprocess; print(subprocess.Popen(['sleep', '20']).pid)")
    began = time.monotonic()
    assert machine.install()[1] == 0
    assert time.monotonic() - began < 15


@pytest.mark.skipif(sys.platform != "linux", reason="Does not apply: processes are looked at in /proc")
def test_ctrl_c_stops_the_program_too(machine: Machine) -> None:
    pid = machine.root / "pid"
    machine.program(machine.root / "bin" / "comfy", f"echo $$ > {pid}; echo fetching; exec sleep 60")
    # The comfy beside this Python would come first.
    code = "import sys; sys.executable = '/nowhere/python'; from ryla_nodes.cli.app import main; main()"
    command = [sys.executable, "-c", code, "comfyui", "install", "--cpu", "--path", str(machine.folder)]
    environment = {**os.environ, "PATH": f"{machine.root / 'bin'}:/usr/bin:/bin", "HOME": str(machine.root)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "fetching\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert ends(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="Does not apply: processes are looked at in /proc")
def test_ctrl_c_at_its_first_line_stops_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is shown by another thread, maybe before whoever began it is told that it began."""
    pid, shown = machine.root / "pid", threading.Event()
    program = machine.program(machine.root / "bin" / "slow", f"echo $$ > {pid}; echo fetching; exec sleep 60")
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        assert shown.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comfyui_install._run([str(program)], lambda _: shown.set(), 60)
    assert ends(pid)


def test_cpu_and_nvidia_exclude_each_other(machine: Machine) -> None:
    assert machine.install("--nvidia")[0]["code"] == "invalid_parameter"
