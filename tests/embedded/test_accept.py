"""``ryla accept`` and ``ryla sheet`` on the embedded engine, with its own models, as people get it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from ryla_nodes.client.comfyui_process import EmbeddedProcess
from ryla_nodes.client.engine_process import EngineProcess
from typed import Typed, typed

SMALL = ("--width", "128", "--height", "128", "--steps", "1")


@pytest.fixture
def ryla(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.setenv("RYLA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return typed(monkeypatch, capsys)


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX thing")
def test_a_run_restarts_its_engine_also_when_that_is_killed(
    ryla: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[EmbeddedProcess] = []
    start = EmbeddedProcess.start

    def noted(self: EmbeddedProcess) -> EngineProcess:
        process = start(self)
        started.append(self)
        if len(started) == 1:
            threading.Thread(target=_kill_when_sampled, args=(self, tmp_path / "run"), daemon=True).start()
        return process

    monkeypatch.setattr(EmbeddedProcess, "start", noted)
    status, printed, _ = ryla(
        "accept", "flux-lora", "--engine", "embedded", "--samples", "2", *SMALL, "-o", "run", "--json"
    )
    told = json.loads(printed)
    found = {figure["name"]: figure for figure in told["error"]["details"]["figures"]}
    # Started, started again after it was killed, and restarted.
    assert len(started) == 3 and status == 5
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["deaths"] == 1
    assert found["success rate"]["made"] == 1 and found["success rate"]["state"] == "fail"
    assert found["the same picture after a restart"]["measured"] == "identical"
    assert found["cold start to the first picture"]["cold"] > found["cold start to the first picture"]["ready"] > 0
    assert found["files downloaded again after a restart"]["files"] == []
    assert found["trigger word in the prompt"]["measured"] == "1 of 1"
    assert found["the LoRA changes the picture"]["state"] == "pass"
    assert found["LoRAs that load"]["loaded"] == ["mira"]
    # The same command again measures nothing, and starts no engine.
    again = json.loads(ryla("accept", "flux-lora", "--engine", "embedded", "--samples", "2", *SMALL, "-o", "run",
                            "--json")[1])  # fmt: skip
    assert again["error"]["details"]["figures"] == told["error"]["details"]["figures"] and len(started) == 3
    assert not any(process.alive for process in started)


def _kill_when_sampled(process: EmbeddedProcess, run: Path) -> None:
    """Kill the engine once its first sample is written down."""
    journal = run / "journal.jsonl"
    while not (journal.exists() and b"sample/flux-lora/1" in journal.read_bytes()):
        time.sleep(0.02)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)


def test_a_sheet_in_the_words_that_the_engine_knows(ryla: Typed, tmp_path: Path) -> None:
    status, printed, _ = ryla("sheet", "--lora-id", "mira", "--engine", "embedded", *SMALL, "-o", "mira.png", "--json")
    told = json.loads(printed)
    assert status == 0 and len(told["scenes"]) == 8
    assert all("background" in scene["prompt"] and scene["face_similarity"] is None for scene in told["scenes"])
    with Image.open(tmp_path / "mira.png") as picture:
        assert picture.width == 3 * 264 + 8
