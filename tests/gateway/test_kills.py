"""Killed under load, again and again: every accepted job ends once, and none is begun twice.

``RYLA_TEST_KILLS`` sets how often; ``RYLA_TEST_POSTGRES`` the URL of a Postgres database to run the same on.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway.process import ServeProcess
from gateway.served import add_workflows
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg

KILLS = int(os.environ.get("RYLA_TEST_KILLS", "3"))
CLIENTS = 4
TRUE_ERRORS = {"job_lost", "server_restarted", "server_gone", "engine_unreachable", "transfer_failed", "output_gone"}


def _stores() -> list[Any]:
    url = os.environ.get("RYLA_TEST_POSTGRES", "")
    skip = pytest.mark.skipif(not url, reason="RYLA_TEST_POSTGRES names no database")
    return ["", pytest.param(url, marks=skip, id="postgres")]


class Load:
    """Clients that send jobs without end, each with a key of its own, and ask again after a broken connection."""

    def __init__(self, gateway: ServeProcess) -> None:
        self._gateway = gateway
        self.accepted: dict[str, str] = {}
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> None:
        with httpx.Client(trust_env=False, timeout=10.0) as http:
            while not self.stop.is_set():
                self._job(http, uuid.uuid4().hex)
                time.sleep(0.15)

    def _job(self, http: httpx.Client, key: str) -> None:
        headers = {"prefer": "respond-async", "idempotency-key": key}
        while True:
            try:
                answer = http.post(f"{self._gateway.url}/paint", json={"prompt": key}, headers=headers)
            except httpx.HTTPError:
                if self.stop.is_set():
                    return
                time.sleep(0.1)
                continue
            if answer.status_code == 202 or answer.status_code == 200:
                self.accepted[key] = answer.headers["x-job-id"]
                return
            assert answer.status_code in (429, 503), answer.text
            time.sleep(0.2)


def _ends(gateway: ServeProcess, jobs: list[str], seconds: float) -> dict[str, dict[str, Any]]:
    """Every job when all have ended."""
    ended: dict[str, dict[str, Any]] = {}
    limit = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=30.0) as http:
        while len(ended) < len(jobs):
            assert time.monotonic() < limit, [job for job in jobs if job not in ended][:3]
            for job in jobs:
                if job not in ended:
                    told = http.get(f"{gateway.url}/jobs/{job}").json()
                    if told.get("state") not in ("queued", "running"):
                        ended[job] = told
            time.sleep(0.2)
        for job, told in ended.items():
            if told["state"] == "succeeded":
                assert http.get(f"{gateway.url}/jobs/{job}/result").content.startswith(b"\xff\xd8")
    return ended


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
            with Load(gateway) as load:
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
            ended = _ends(gateway, list(load.accepted.values()), 60.0 + 4 * KILLS)
        finally:
            gateway.stop()
    states = Counter(told["state"] for told in ended.values())
    codes = Counter(told["error"]["code"] for told in ended.values() if told["state"] != "succeeded")
    assert len(ended) == len(set(load.accepted.values())) > KILLS
    assert states["succeeded"] >= len(ended) - 4 * KILLS and set(codes) <= TRUE_ERRORS, (states, codes)
    # A prompt id is made of its job's: begun twice under one, or under two, a job would be here twice.
    assert not [one for one, count in Counter(engine.started).items() if count > 1]
    assert len(engine.started) <= len(ended)
