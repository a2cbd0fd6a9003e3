"""Several gateways on one Postgres: keys hold across them, one takes over what another one leaves, nothing runs twice.

With ``RYLA_TEST_LONG`` two are killed under load, ``RYLA_TEST_GATEWAY_KILLS`` times each, and Postgres is gone for
``RYLA_TEST_OUTAGE`` seconds.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import postgres
import pytest
from gateway.load import CLIENTS, Load, ends
from gateway.process import ServeProcess
from gateway.served import add_workflows, photo, until
from long import long
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg

KILLS = int(os.environ.get("RYLA_TEST_GATEWAY_KILLS", "2"))
TRUE_ERRORS = {"job_lost", "server_gone", "engine_unreachable"}


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    with postgres.postgres() as one:
        yield one


class Pair:
    """Two gateways on one Postgres, each a process of its own."""

    def __init__(self, root: Path, server: postgres.Postgres, *engines: FakeEngine) -> None:
        environment = {"RYLA_WORKFLOWS": str(add_workflows(root / "w")), "RYLA_HOME": str(root / "home")}
        environment["RYLA_JOBS_URL"] = server.url(f"jobs_{uuid.uuid4().hex[:8]}")
        arguments = ["--workflow", "paint", "--workflow", "portrait", "--timeout", "3600", "--queue", "1000"]
        for engine in engines:
            arguments += ["--server", engine.url]
        self.gateways = [ServeProcess(root / name, arguments, environment) for name in ("a", "b")]

    def __enter__(self) -> tuple[Asked, Asked]:
        one, other = (Asked(gateway.start()) for gateway in self.gateways)
        return one, other

    def __exit__(self, *_: object) -> None:
        for gateway in self.gateways:
            if gateway.process.poll() is None:
                gateway.stop()


class Asked:
    """A gateway, and what tests ask it."""

    def __init__(self, process: ServeProcess) -> None:
        self.process = process
        self.http = httpx.Client(base_url=process.url, trust_env=False, timeout=60.0)

    def post(self, workflow: str, /, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return self.http.post(f"/{workflow}", json=fields, headers=headers)

    def later(self, prompt: str, **headers: str) -> str:
        answer = self.post("paint", {"prefer": "respond-async", **headers}, prompt=prompt)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def state(self, job: str) -> str:
        return str(self.http.get(f"/jobs/{job}").json()["state"])

    def picture(self, job: str) -> bytes:
        return self.http.get(f"/jobs/{job}/result").content


def test_a_key_holds_at_both_and_a_job_is_seen_watched_and_cancelled_at_the_other(
    engine: FakeEngine, tmp_path: Path, server: postgres.Postgres
) -> None:
    with Pair(tmp_path, server, engine) as (one, other):
        engine.seconds = 1.0
        key = {"idempotency-key": "k"}
        job = one.later("x", **key)
        # Asked for again at the other one, which waits for the first one's picture.
        again = other.post("paint", key, prompt="x")
        assert again.status_code == 200 and again.headers["x-job-id"] == job
        assert again.content == one.picture(job)
        assert other.post("paint", key, prompt="y").json()["code"] == "idempotency_conflict"
        assert "event: done" in other.http.get(f"/jobs/{job}/events").text
        engine.seconds = 20.0
        job = one.later("long")
        until(lambda: one.state(job) == "running")
        watched: list[str] = []
        watching = threading.Thread(target=lambda: watched.append(other.http.get(f"/jobs/{job}/events").text))
        watching.start()
        assert other.http.delete(f"/jobs/{job}").json()["state"] == "cancelled"
        watching.join()
        assert "event: queued" in watched[0] and '"state": "cancelled"' in watched[0]
        assert one.state(job) == "cancelled" and not engine.running


def test_what_a_gateway_leaves_goes_on_at_the_other_with_its_photos(
    engine: FakeEngine, tmp_path: Path, server: postgres.Postgres
) -> None:
    with Pair(tmp_path, server, engine) as (one, other):
        engine.seconds = 1.5
        jobs = [one.later(str(number)) for number in range(3)]
        files = {"reference_image": ("p.png", photo())}
        answer = one.http.post("/portrait", data={"prompt": "p"}, files=files, headers={"prefer": "respond-async"})
        jobs.append(answer.json()["id"])
        until(lambda: bool(engine.running))
        one.process.kill()
        for job in jobs:
            until(lambda job=job: other.state(job) == "succeeded", 40)
            assert other.picture(job).startswith(b"\xff\xd8")
        assert not list((other.process.state / "uploads").iterdir())
    assert len(engine.started) == len(set(engine.started))


@long
def test_a_gateway_that_was_taken_for_dead_does_no_more_for_its_jobs(
    engine: FakeEngine, tmp_path: Path, server: postgres.Postgres
) -> None:
    with Pair(tmp_path, server, engine) as (one, other):
        begun = len(engine.started)
        engine.seconds = 0.3
        jobs = [one.later(str(number)) for number in range(12)]
        one.process.process.send_signal(signal.SIGSTOP)
        try:
            for job in jobs:
                until(lambda job=job: other.state(job) == "succeeded", 60)
        finally:
            one.process.process.send_signal(signal.SIGCONT)
        until(lambda: all(one.state(job) == "succeeded" for job in jobs), 20)
        assert one.post("paint", prompt="after").status_code == 200
    runs = Counter(engine.started[begun:])
    assert len(runs) == 13 and set(runs.values()) == {1}, runs


@long
def test_a_postgres_that_is_gone_for_a_while_loses_no_job(
    engine: FakeEngine, tmp_path: Path, server: postgres.Postgres
) -> None:
    seconds = float(os.environ.get("RYLA_TEST_OUTAGE", "3"))
    with Pair(tmp_path, server, engine) as (one, other):
        begun = len(engine.started)
        engine.seconds = 1.0
        jobs = [one.later(str(number)) for number in range(3)] + [other.later(str(number)) for number in range(3, 6)]
        server.stop()
        assert one.http.get("/health").status_code == 200
        time.sleep(seconds)
        server.start()
        for job in jobs:
            until(lambda job=job: one.state(job) == "succeeded", 120)
            assert one.picture(job).startswith(b"\xff\xd8")
        engine.seconds = 0.02
        assert other.post("paint", prompt="after").status_code == 200
    runs = Counter(engine.started[begun:])
    assert len(runs) == 7 and set(runs.values()) == {1}, runs


@long
@pytest.mark.timeout(150 + 60 * KILLS)
def test_two_gateways_that_are_killed_again_and_again_lose_no_job_and_run_none_twice(
    tmp_path: Path, server: postgres.Postgres
) -> None:
    chance = random.Random(11)
    with FakeEngine(make=jpeg, seconds=0.08) as first, FakeEngine(make=jpeg, seconds=0.08) as second:
        pair = Pair(tmp_path, server, first, second)
        with pair, Load(pair.gateways) as load:
            for number in range(2 * KILLS):
                time.sleep(chance.uniform(0.5, 1.5))
                victim = pair.gateways[number % 2]
                victim.kill()
                # Now and then for so long that the other one takes its jobs over.
                time.sleep(chance.choice((0.0, 0.3, 1.0, 16.0)) if number else 16.0)
                victim.start()
            time.sleep(1.0)
            load.stop.set()
            # One of them never comes back.
            pair.gateways[1].kill()
            ended = ends(pair.gateways[0], load, 90.0 + 4 * KILLS)
    states = Counter(told["state"] for told in ended.values())
    codes = Counter(told["error"]["code"] for told in ended.values() if told["state"] != "succeeded")
    assert len(ended) > 2 * KILLS and states["succeeded"] >= len(ended) - 4 * KILLS, (states, codes)
    assert set(codes) <= TRUE_ERRORS, codes
    runs = Counter([*first.started, *second.started])
    assert not [job for job, count in runs.items() if count > 1]
    assert len(runs) <= len(ended) + CLIENTS
