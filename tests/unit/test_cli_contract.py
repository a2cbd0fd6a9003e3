"""What programs rely on: one JSON object on stdout, whatever happens, and an end when we are told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import add_workflow
from unit.test_client_faults import _until

MAIN = "from ryla_nodes.cli.app import main; main()"
posix = pytest.mark.skipif(sys.platform == "win32", reason="Does not apply: signals of POSIX")


def _environ(folder: Path, **more: str) -> dict[str, str]:
    root = folder / "workflows"
    if not root.exists():
        add_workflow(root)
    return os.environ | {"RYLA_WORKFLOWS": str(root), "RYLA_HOME": str(folder / "home")} | more


def _ryla(folder: Path, *arguments: str, script: str = MAIN, **more: str) -> subprocess.CompletedProcess[bytes]:
    environ = _environ(folder, **more)
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, cwd=folder, env=environ)


def _object(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert done.stdout.count(b"\n") == 1, done.stdout
    body: dict[str, Any] = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return body


USAGE = [
    "run paint --timeout abc", "run paint --engine bogus", "run", "run paint extra", "workflows show", "bogus",
    "workflows", "engine --port 99999", "run paint --count 0", "loras inspect",
]  # fmt: skip


@pytest.mark.parametrize("arguments", USAGE)
def test_arguments_that_the_parser_refuses_are_one_object(arguments: str, tmp_path: Path) -> None:
    done = _ryla(tmp_path, *arguments.split(), "--json")
    body = _object(done)
    assert done.returncode == 2 and body["error"]["code"] in ("invalid_usage", "missing_parameter")
    assert body["error"]["message"] and "Traceback" not in done.stderr.decode()


def test_help_and_a_dry_run_are_one_object_too(tmp_path: Path) -> None:
    assert "Usage" in _object(_ryla(tmp_path, "run", "--help", "--json"))["text"]
    body = _object(_ryla(tmp_path, "run", "paint", "--prompt", "a", "--seed", "1", "--dry-run", "--json"))
    assert body["1"]["inputs"]["text"] == "a"
    body = _object(_ryla(tmp_path, "run", "paint", "--prompt", "a", "--seeds", "1,2", "--dry-run", "--json"))
    assert [job["index"] for job in body["jobs"]] == [1, 2]


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_of_the_terminal_will_do(encoding: str, tmp_path: Path) -> None:
    with FakeEngine(seconds=0.0) as engine:
        command = ("run", "paint", "--prompt", "ein Füchslein 狐 \u2028", "--server", engine.url)
        done = _ryla(tmp_path, *command, "--json", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode(encoding.split(":")[0])
        assert text.count("\n") == 1 and json.loads(text)["parameters"]["prompt"] == "ein Füchslein 狐 \u2028"
        done = _ryla(tmp_path, *command, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert _ryla(tmp_path, "--help", PYTHONIOENCODING=encoding, PYTHONUTF8="0").returncode == 0


def test_a_fault_of_our_own_is_one_object_as_well(tmp_path: Path) -> None:
    script = "import ryla_nodes.cli.run.command as c; c.load = lambda *_: 1 / 0\n" + MAIN
    done = _ryla(tmp_path, "run", "paint", "--json", script=script)
    assert _object(done)["error"]["code"] == "internal_error" and done.returncode == 5
    done = _ryla(tmp_path, "run", "paint", script=script)
    assert b"ZeroDivisionError" in done.stderr and b"Traceback" not in done.stderr and done.returncode == 5
    assert b"Traceback" in _ryla(tmp_path, "--debug", "run", "paint", script=script).stderr


def test_what_json_does_not_have_is_null(tmp_path: Path) -> None:
    script = "from ryla_nodes.cli import output; output.emit({'likeness': float('nan'), 'more': [float('inf'), 1.5]})"
    assert _object(_ryla(tmp_path, script=script)) == {"ok": True, "likeness": None, "more": [None, 1.5]}


# --- told to end ------------------------------------------------------------------------------------------------------


def _running(folder: Path, engine: FakeEngine, *more: str, before: str = "") -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", before + MAIN, "run", "paint", "--prompt", "a", "--server", engine.url, "--json", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=_environ(folder),
    )  # fmt: skip
    _until(lambda: bool(engine.running), 20)
    return child


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_told_to_end_cancels_as_ctrl_c_does(name: str, tmp_path: Path) -> None:
    with FakeEngine(seconds=60) as engine:
        child = _running(tmp_path, engine)
        began = time.monotonic()
        child.send_signal(getattr(signal, name))
        out, _ = child.communicate(timeout=10)
        assert child.returncode == 130 and json.loads(out)["error"]["code"] == "cancelled"
        assert not engine.running and time.monotonic() - began < 4


@posix
def test_told_to_end_twice_is_told_once_and_a_deaf_engine_does_not_keep_us(tmp_path: Path) -> None:
    """systemd sends SIGHUP right after SIGTERM; docker kills ten seconds after it."""
    with FakeEngine("deaf", seconds=60) as engine:
        child = _running(tmp_path, engine)
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGHUP)
        out, _ = child.communicate(timeout=12)
        assert json.loads(out)["error"]["code"] == "cancel_unverified"
        assert 4 < time.monotonic() - began < 9


@posix
def test_a_batch_that_is_told_to_end_goes_on_later(tmp_path: Path) -> None:
    with FakeEngine(seconds=1) as engine:
        child = _running(tmp_path, engine, "--seeds", "1,2,3", "-o", "{seed}.png")
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=10)
        assert child.returncode == 130 and not engine.running and not engine.pending
        engine.seconds = 0.0
        done = _ryla(tmp_path, "run", "paint", "--prompt", "a", "--server", engine.url, "--json", "--seeds", "1,2,3",
                     "-o", "{seed}.png")  # fmt: skip
        assert _object(done)["made"] == 3


@posix
def test_nohup_is_heeded(tmp_path: Path) -> None:
    with FakeEngine(seconds=1.5) as engine:
        child = _running(tmp_path, engine, before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n")
        child.send_signal(signal.SIGHUP)
        out, _ = child.communicate(timeout=15)
        assert child.returncode == 0 and json.loads(out)["ok"]


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    """The folder of what looks like a ComfyUI, has a child of its own and does not heed SIGTERM."""
    folder = tmp_path / "comfyui"
    for name in ("comfy", "comfy_extras", "comfy_api"):
        (folder / name).mkdir(parents=True)
    (folder / "nodes.py").touch()
    (folder / "main.py").write_text(
        textwrap.dedent(f"""
        import os, pathlib, signal, subprocess, sys, time
        sys.path[:0] = {[str(Path(__file__).parents[1]), *sys.path]!r}
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        from unit.fake_engine import FakeEngine
        child = subprocess.Popen(["sleep", "100"])
        with FakeEngine(seconds=60, port=int(sys.argv[sys.argv.index("--port") + 1])) as engine:
            while not engine.running:
                time.sleep(0.05)
            pathlib.Path("pids").write_text(f"{{os.getpid()}} {{child.pid}}")
            time.sleep(100)
        """)
    )
    return folder


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Does not apply: Linux tells of processes in /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_comfyui_of_ours_outlives_nobody(name: str, tmp_path: Path, comfyui: Path) -> None:
    command = [
        "run",
        "paint",
        "--prompt",
        "a",
        "--start-comfyui",
        comfyui,
        "--comfyui-python",
        sys.executable,
        "--json",
    ]
    child = subprocess.Popen(
        [sys.executable, "-c", MAIN, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        env=_environ(tmp_path),
    )  # fmt: skip
    _until(lambda: (comfyui / "pids").exists(), 30)
    time.sleep(0.2)
    pids = [int(pid) for pid in (comfyui / "pids").read_text().split()]
    began = time.monotonic()
    child.send_signal(getattr(signal, name))
    out, _ = child.communicate(timeout=15)
    _until(lambda: not any(map(_alive, pids)), 8)
    assert time.monotonic() - began < 10, "longer than a container's grace"
    assert name == "SIGKILL" or json.loads(out)["error"]["code"] in ("cancelled", "cancel_unverified")
