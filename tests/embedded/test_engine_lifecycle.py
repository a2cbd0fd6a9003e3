"""Starting and stopping the embedded engine, in this process and as a command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from embedded.engine_client import Engine, picture, slow
from ryla_nodes.errors import RylaError

RYLA = [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()"]
COMMAND = [*RYLA, "engine"]


def test_it_starts_and_stops_without_a_trace(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    engine = Engine(tmp_path)
    started = time.monotonic()
    with engine:
        assert engine.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert time.monotonic() - started < 1
    assert set(threading.enumerate()) == before
    engine.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{engine.url}/queue", trust_env=False)


def test_stopping_cancels_the_running_job(tmp_path: Path) -> None:
    with Engine(tmp_path) as engine, engine.listen("x"):
        engine.wait_until_running(engine.accept(slow(steps=9000), client_id="x"))
        engine.accept(slow(steps=9000))
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 2


def test_several_live_in_one_process(tmp_path: Path) -> None:
    with Engine(tmp_path / "a") as one, Engine(tmp_path / "b") as other:
        for engine in (one, other):
            engine.succeed(picture(prefix="mine"))
            assert (engine.files.output / "mine_00001_.png").is_file()
        assert one.url != other.url


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RylaError) as failure:
            Engine(tmp_path, port=port).start()
    assert failure.value.code == "port_in_use" and str(port) in failure.value.message


def test_an_address_of_another_machine_is_said(tmp_path: Path) -> None:
    with pytest.raises(RylaError) as failure:
        Engine(tmp_path, host="203.0.113.9", token="t").start()
    assert failure.value.code == "engine_cannot_listen"


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "203.0.113.9"])
def test_others_are_let_in_with_a_token_only(tmp_path: Path, host: str) -> None:
    with pytest.raises(RylaError) as failure:
        Engine(tmp_path, host=host)
    assert failure.value.code == "token_required" and "RYLA_TOKEN" in failure.value.hint


def test_torch_is_loaded_for_a_graph_and_not_before(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from embedded.engine_client import Engine, picture
with Engine(Path({str(tmp_path)!r})) as engine:
    engine.get("/object_info"), engine.get("/system_stats"), engine.submit({{"1": {{}}}})
    before = "torch" in sys.modules
    engine.succeed(picture())
    print(before, "torch" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.stdout.split() == ["False", "True"], ran.stderr


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """``ryla engine --json`` and what it told; its small models are made on the way."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RYLA_")}
    home = tmp_path_factory.mktemp("home")
    arguments = [*COMMAND, "--port", "0", "--home", str(home), "--json"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
        process.kill()


def test_the_command_serves_every_node_and_model_folder(command: tuple[object, dict[str, Any]]) -> None:
    told = command[1]
    assert told["ok"] and Path(told["home"]).is_dir()
    with httpx.Client(base_url=told["url"], trust_env=False) as http:
        assert {"RYLA_SaveImage", "KSampler", "SaveImage"} <= http.get("/object_info").json().keys()
        assert "loras" in http.get("/models").json()
        assert isinstance(http.get("/models/loras").json(), list)
        assert http.get("/models/nowhere").status_code == 404
        assert http.get("/embeddings").json() == []


def test_the_command_says_where_it_listens(command: tuple[object, dict[str, Any]]) -> None:
    arguments = [*COMMAND, "--port", "0", "--home", command[1]["home"]]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Embedded engine at http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_command_stops_on_ctrl_c(command: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    process, told = command
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(told["url"], trust_env=False)


def test_the_command_fails_in_two_lines(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RYLA_TOKEN"} | {"COLUMNS": "200"}

    def failing(*options: str) -> tuple[int, list[str]]:
        command = [*COMMAND, "--home", str(tmp_path), *options]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert ran.stdout == ""
        return ran.returncode, ran.stderr.splitlines()

    status, lines = failing("--host", "0.0.0.0")
    assert status == 2 and lines[0].startswith("error token_required") and "RYLA_TOKEN" in lines[1] and len(lines) == 2
    status, lines = failing("--port", "70000")
    assert status == 2 and any("'--port'" in line for line in lines)


def test_a_warm_up_comes_before_the_engine_says_where_it_listens(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RYLA_")}
    environment["RYLA_WARMUP"] = "flux-dev, nonsense"
    arguments = [*COMMAND, "--port", "0", "--home", str(tmp_path), "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, env=environment, text=True, **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        url = json.loads(process.stdout.readline())["url"]
        history = httpx.get(f"{url}/history", trust_env=False).json()
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(20) == 0
    assert [entry["status"]["status_str"] for entry in history.values()] == ["success"]
    assert 'RYLA_WARMUP: nonsense failed: There is no workflow "nonsense"' in said
