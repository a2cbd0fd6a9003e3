"""What is kept, for how long, and what a new process finds of an old one's."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gateway.served import Served, options_of, photo, served, until
from ryla_nodes.errors import RylaError
from ryla_nodes.gateway.janitor import Janitor
from ryla_nodes.gateway.store import JobStore
from unit.fake_engine import FakeEngine

LATER = {"prefer": "respond-async"}


def test_a_new_process_knows_the_jobs_of_the_old_one(engine: FakeEngine, tmp_path: Path) -> None:
    options = options_of(tmp_path, engine.url)
    key = {"idempotency-key": "k"}
    with served(options) as gateway:
        first = gateway.post("paint", prompt="x", headers=key)
        engine.faults.add("node error")
        bad = gateway.post("paint", prompt="y").json()
        engine.faults.clear()
    runs = len(engine.posts)
    with served(options) as gateway:
        again = gateway.post("paint", prompt="x", headers=key)
        assert again.content == first.content and again.headers["x-seed"] == first.headers["x-seed"]
        assert gateway.post("paint", prompt="z", headers=key).status_code == 409
        result = gateway.http.get(f"/jobs/{first.headers['x-job-id']}/result")
        assert result.content == first.content and result.headers["x-prompt-id"] == first.headers["x-prompt-id"]
        stored = gateway.http.get(f"/jobs/{bad['job_id']}/result")
        assert stored.status_code == 502 and stored.json()["detail"] == bad["detail"]
        events = gateway.http.get(f"/jobs/{bad['job_id']}/events").text
        assert "event: done" in events and '"state": "failed"' in events
        listed = gateway.http.get("/jobs").json()["jobs"]
        assert [job["id"] for job in listed] == [bad["job_id"], first.headers["x-job-id"]]
        assert [job["state"] for job in listed] == ["failed", "succeeded"]
    assert len(engine.posts) == runs


def test_jobs_that_wait_or_run_go_on_in_the_next_process(engine: FakeEngine, tmp_path: Path) -> None:
    options = options_of(tmp_path, engine.url)
    engine.seconds = 0.8
    with served(options) as gateway:
        jobs = [gateway.post("paint", prompt=str(number), headers=LATER).json()["id"] for number in range(5)]
        data = {"prompt": "with a photo"}
        answer = gateway.http.post("/portrait", data=data, files={"reference_image": ("a", photo())}, headers=LATER)
        jobs.append(answer.json()["id"])
        until(lambda: bool(engine.running))
    started = len(engine.started)
    with served(options) as gateway:
        assert {gateway.http.get(f"/jobs/{job}").json()["state"] for job in jobs} <= {"queued", "running", "succeeded"}
        gateway.http.delete(f"/jobs/{jobs[4]}")
        for job in jobs[:4] + jobs[5:]:
            until(lambda link=f"/jobs/{job}": gateway.http.get(link).json()["state"] == "succeeded")
        until(lambda: gateway.http.get(f"/jobs/{jobs[4]}").json()["state"] == "cancelled")
        assert not list((options.state / "uploads").iterdir())
    assert len(engine.started) == len(set(engine.started)) and len(engine.started) - started <= 5


def test_a_client_that_waits_when_the_gateway_stops_is_told(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seconds = 3.0
    gateway = Served(options_of(tmp_path, engine.url)).start()
    answers: list[httpx.Response] = []
    import threading

    asking = threading.Thread(target=lambda: answers.append(gateway.post("paint", prompt="x")))
    asking.start()
    until(lambda: bool(engine.running))
    gateway.call(_abandoned(gateway))
    asking.join()
    gateway.stop()
    assert answers[0].status_code == 503 and answers[0].json()["code"] == "shutting_down"


async def _abandoned(gateway: Served) -> None:
    await gateway.gateway.jobs.abandon()


def test_a_gateway_that_drains_finishes_what_runs_and_takes_nothing(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seconds = 1.0
    with served(options_of(tmp_path, engine.url)) as gateway:
        job = gateway.post("paint", prompt="x", headers=LATER).json()["id"]
        # The engine may still have one of an earlier test.
        until(lambda: gateway.http.get(f"/jobs/{job}").json()["state"] == "running")
        gateway.call(gateway.gateway.drain(10.0))
        assert gateway.http.get(f"/jobs/{job}").json()["state"] == "succeeded"
        refused = gateway.post("paint", prompt="y")
        assert refused.status_code == 503 and refused.json()["code"] == "shutting_down"
        assert gateway.http.get("/ready").status_code == 503


def test_a_full_line_is_refused_with_a_time(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seconds = 1.0
    with served(options_of(tmp_path, engine.url, queued=2)) as gateway:
        answers = [gateway.post("paint", prompt=str(number), headers=LATER) for number in range(5)]
        assert [answer.status_code for answer in answers] == [202] * 4 + [429]
        assert answers[-1].json()["code"] == "queue_full" and int(answers[-1].headers["retry-after"]) >= 1


def test_old_jobs_and_too_many_pictures_are_deleted(engine: FakeEngine, tmp_path: Path) -> None:
    options = options_of(tmp_path, engine.url)
    with served(options) as gateway:
        jobs = [gateway.post("paint", prompt=str(number)).headers["x-job-id"] for number in range(4)]
        janitor = gateway.gateway._janitor
        gateway.call(janitor.clean())
        assert all(gateway.http.get(f"/jobs/{job}/result").status_code == 200 for job in jobs)
        database = gateway.gateway.database
        files = [file for file in (options.state / "results").rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        if database is not None:
            size = int(database.rows("SELECT sum(length(content)) FROM ryla.files")[0][0])
        janitor._limits = replace(options.limits, keep_bytes=size // 2 + 1)
        gateway.call(janitor.clean())
        statuses = [gateway.http.get(f"/jobs/{job}/result").status_code for job in jobs]
        assert statuses == [410, 410, 200, 200]
        assert gateway.http.get(f"/jobs/{jobs[0]}").json()["state"] == "succeeded"
        time.sleep(1.1)
        janitor._limits = replace(options.limits, keep_seconds=1.0)
        gateway.call(janitor.clean())
        assert {gateway.http.get(f"/jobs/{job}").status_code for job in jobs} == {404}
        assert not [file for file in (options.state / "results").rglob("*") if file.is_file()]


def test_orphaned_uploads_are_swept(engine: FakeEngine, tmp_path: Path) -> None:
    options = options_of(tmp_path, engine.url)
    with served(options) as gateway:
        old, new = (options.state / "uploads" / name for name in ("old", "new"))
        old.touch()
        new.touch()
        os.utime(old, (1, 1))
        gateway.call(gateway.gateway._janitor.clean())
        assert not old.exists() and new.exists()


def test_old_pictures_of_an_own_engine_are_deleted(engine: FakeEngine, tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    (folder / "sub").mkdir(parents=True)
    old, new = folder / "sub" / "old.png", folder / "new.png"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    with served(options_of(tmp_path, engine.url)) as gateway:
        gateway.call(Janitor(gateway.gateway.jobs, gateway.options.limits, [folder]).clean())
    assert not old.exists() and new.exists()


# --- the store --------------------------------------------------------------------------------------------------------


async def _nothing(job_id: str, record: dict[str, object]) -> dict[str, object]:
    return record


def _refused(folder: Path, url: str | None = None) -> str:
    with pytest.raises(RylaError) as caught:
        JobStore(folder, url, {"job": _nothing}).open()
    return caught.value.code


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "gateway.json").write_text(json.dumps({"format": 99, "id": "x"}))
    assert _refused(tmp_path) == "job_store_newer"
    assert not (tmp_path / "jobs.sqlite").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"format": "x", "id": 1}'])
def test_a_damaged_identity_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "gateway.json").write_text(text)
    assert _refused(tmp_path) == "job_store_unreachable"


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"this is no database" * 100)
    assert _refused(tmp_path) == "job_store_unreachable"


@pytest.mark.parametrize("url", ["postgresql://postgres:secret@127.0.0.1:1/jobs", "nonsense", "mysql://x/y"])
def test_a_database_that_is_not_there(tmp_path: Path, url: str) -> None:
    assert _refused(tmp_path, url) == "job_store_unreachable"


def test_two_gateways_do_not_share_a_folder(gateway: Served) -> None:
    assert _refused(gateway.options.state) == "gateway_running"
