"""What a gateway is told at its start. One at a time in a process: none of these shares the module's."""

from __future__ import annotations

import time
from pathlib import Path

from gateway.served import options_of, served
from unit.fake_engine import FakeEngine


def test_cost_is_execution_by_the_price(engine: FakeEngine, tmp_path: Path) -> None:
    with served(options_of(tmp_path, engine.url, RYLA_GPU_USD_PER_HOUR="3600")) as gateway:
        answer = gateway.post("paint", prompt="a fox")
        cost, seconds = float(answer.headers["x-cost-usd"]), float(answer.headers["x-execution-time-sec"])
    assert cost > 0 and abs(cost - seconds) < 0.001


def test_a_deadline_ends_a_job(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seconds = 20.0
    with served(options_of(tmp_path, engine.url, timeout=1.0)) as gateway:
        began = time.monotonic()
        answer = gateway.post("paint", prompt="a fox")
    assert answer.status_code == 504 and answer.json()["code"] == "timed_out"
    assert time.monotonic() - began < 10 and not engine.running
