"""Killed under load, again and again: every accepted job ends once, and none is begun twice.

``RYLA_TEST_KILLS`` sets how often; ``RYLA_TEST_POSTGRES`` the URL of a Postgres database to run the same on.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gateway.load import Load, ends
from gateway.process import ServeProcess
from gateway.served import add_workflows
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg

KILLS = int(os.environ.get("RYLA_TEST_KILLS", "3"))
TRUE_ERRORS = {"job_lost", "server_restarted", "server_gone", "engine_unreachable", "transfer_failed", "output_gone"}


def _stores() -> list[Any]:
    url = os.environ.get("RYLA_TEST_POSTGRES", "")
    skip = pytest.mark.skipif(not url, reason="RYLA_TEST_POSTGRES names no database")
    return ["", pytest.param(url, marks=skip, id="postgres")]


@pytest.mark.timeout(60 + 20 * KILLS)
@pytest.mark.parametrize("store", _stores())
def test_no_accepted_job_is_lost_and_none_runs_twice(tmp_path: Path, store: str) -> None:
    chance = random.Random(7)
    with FakeEngine(make=jpeg, seconds=0.08) as engine:
        environment = {"RYLA_WORKFLOWS": str(add_workflows(tmp_path / "w")), "RYLA_HOME": str(tmp_path / "home")}
        if store:
            environment["RYLA_JOBS_URL"] = store
        arguments = ["--server", engine.url, "--workflow", "paint", "--timeout", "3600", "--queue", "1000"]
        gateway = ServeProcess(tmp_path / "state", arguments, environment).start()
        try:
            with Load([gateway]) as load:
                for number in range(KILLS):
                    time.sleep(chance.uniform(0.5, 1.5))
                    if number % 3 == 2:
                        engine.kill()
                        time.sleep(chance.uniform(0.0, 0.5))
                        engine.start()
                    else:
                        gateway.kill()
                        time.sleep(chance.uniform(0.0, 0.3))
                        gateway.start()
                time.sleep(1.0)
            ended = ends(gateway, load, 60.0 + 4 * KILLS)
        finally:
            gateway.stop()
    states = Counter(told["state"] for told in ended.values())
    codes = Counter(told["error"]["code"] for told in ended.values() if told["state"] != "succeeded")
    assert len(ended) == len(set(load.accepted.values())) > KILLS
    assert states["succeeded"] >= len(ended) - 4 * KILLS and set(codes) <= TRUE_ERRORS, (states, codes)
    # A prompt id is made of its job's: begun twice under one, or under two, a job would be here twice.
    assert not [one for one, count in Counter(engine.started).items() if count > 1]
    assert len(engine.started) <= len(ended)
