"""``ryla run --gateway`` as it is typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gateway.served import Served, until
from PIL import Image
from typed import typed
from unit.fake_engine import FakeEngine

RUN = (sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", "run")


@pytest.fixture
def ryla(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run ``ryla run ...`` in this process, in an empty folder and without workflows of its own."""
    for name in ("RYLA_SERVER", "RYLA_GATEWAY", "RYLA_TOKEN", "RYLA_WORKFLOWS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    return typed(monkeypatch, capsys, "run")


def test_one_picture_of_a_workflow_that_only_the_gateway_has(ryla: Any, gateway: Served) -> None:
    status, out, err = ryla("paint", "--prompt", "a fox", "--seed", "7", "--gateway", gateway.url, "-o", "fox.jpg")
    assert (status, out) == (0, ""), err
    assert "saved   fox.jpg" in err and "seed    7" in err and "on the engine" in err and "job     " in err
    assert Image.open("fox.jpg").format == "JPEG" and [path.name for path in Path().iterdir()] == ["fox.jpg"]


def test_json(ryla: Any, gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RYLA_GATEWAY", gateway.url)
    status, out, err = ryla("paint", "--prompt", "a fox", "--json")
    body = json.loads(out)
    assert (status, err) == (0, "") and body["ok"] and body["state"] == "succeeded"
    assert body["server"] == gateway.url and body["job_id"] and body["prompt_id"]
    assert {"gpu", "cost_usd", "lora_used", "face_similarity", "seed", "timings"} <= body.keys()
    assert body["parameters"]["prompt"] == "a fox" and Path(body["files"][0]).is_file()


def test_help_shows_what_the_gateway_takes(ryla: Any, gateway: Served) -> None:
    status, _, err = ryla("--gateway", gateway.url, "paint", "--help")
    assert status == 0 and "Parameters of paint" in err and "--guidance" in err


def test_the_gateway_of_the_environment_is_named(ryla: Any, gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RYLA_GATEWAY", gateway.url)
    monkeypatch.setenv("RYLA_SERVER", "http://127.0.0.1:9")
    status, _, err = ryla("paint", "--prompt", "a fox")
    assert status == 0 and f"Gateway: {gateway.url} (RYLA_GATEWAY)" in err


@pytest.mark.parametrize(
    "other", [["--server", "http://127.0.0.1:9"], ["--engine", "embedded"], ["--start-comfyui", "."]]
)
def test_it_excludes_engines(ryla: Any, gateway: Served, other: list[str]) -> None:
    status, _, err = ryla("paint", "--prompt", "x", "--gateway", gateway.url, *other)
    assert status == 2 and "conflicting_options" in err


def test_exit_statuses(ryla: Any, gateway: Served, engine: FakeEngine) -> None:
    for arguments, expected, code in (
        (["pain", "--prompt", "x"], 2, "unknown_workflow"),
        (["paint", "--promt", "x"], 2, "unknown_parameter"),
        (["paint", "--prompt", "x", "--width", "1000"], 2, "invalid_parameter"),
        (["paint", "--prompt", "x", "-o", "no/folder.jpg"], 7, "output_folder_missing"),
    ):
        status, _, err = ryla(*arguments, "--gateway", gateway.url)
        assert (status, code in err) == (expected, True), err
    assert ryla("paint", "--gateway", engine.url)[0] == 4
    engine.faults.add("node error")
    status, out, _ = ryla("paint", "--prompt", "x", "--gateway", gateway.url, "--json")
    assert status == 5 and json.loads(out)["error"]["code"] == "node_failed"
    engine.faults.clear()
    engine.seconds = 20.0
    status, _, err = ryla("paint", "--prompt", "x", "--gateway", gateway.url, "--timeout", "0.5")
    assert status == 6 and not engine.running, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_at_the_gateway(gateway: Served, engine: FakeEngine, tmp_path: Path, number: int) -> None:
    engine.seconds = 20.0
    process = subprocess.Popen(
        [*RUN, "paint", "--prompt", "long", "--gateway", gateway.url, "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: bool(engine.running))
    began = time.monotonic()
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and json.loads(out)["error"]["code"] == "cancelled"
    assert time.monotonic() - began < 6 and not engine.running and not list(tmp_path.glob("paint*"))


# --- many -------------------------------------------------------------------------------------------------------------


def _rows(path: Path, count: int) -> Path:
    path.write_text("prompt,seed\n" + "".join(f"row {n},{n}\n" for n in range(count)))
    return path


def test_a_batch(ryla: Any, gateway: Served, engine: FakeEngine, tmp_path: Path) -> None:
    runs, rows = len(engine.started), _rows(tmp_path / "rows.csv", 10)
    arguments = ["paint", "--batch", str(rows), "-o", "{index:02}-{seed}.jpg", "--gateway", gateway.url]
    status, _, err = ryla(*arguments)
    assert status == 0, err
    assert sorted(path.name for path in Path().glob("*.jpg")) == [f"{n + 1:02}-{n}.jpg" for n in range(10)]
    assert len(engine.started) == runs + 10
    Path("03-2.jpg").unlink()
    assert ryla(*arguments)[0] == 0 and len(engine.started) == runs + 11 and Path("03-2.jpg").exists()


def test_a_killed_batch_goes_on_and_makes_nothing_twice(
    ryla: Any, gateway: Served, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.seconds = 0.3
    runs, rows = len(engine.started), _rows(tmp_path / "rows.csv", 8)
    arguments = ["paint", "--batch", str(rows), "-o", "{index:02}.jpg", "--gateway", gateway.url]
    process = subprocess.Popen(
        [*RUN, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: len(engine.started) >= runs + 3)
    process.kill()
    process.wait(10)
    assert ryla(*arguments)[0] == 0
    assert len(list(Path().glob("*.jpg"))) == 8 and len(engine.started) == runs + 8


def test_a_batch_stops_when_there_is_no_gateway_any_more(ryla: Any, gateway: Served, tmp_path: Path) -> None:
    rows = _rows(tmp_path / "rows.csv", 3)
    status, _, err = ryla("paint", "--batch", str(rows), "-o", "out/", "--gateway", "http://127.0.0.1:9")
    assert status == 4 and "engine_unreachable" in err, err
