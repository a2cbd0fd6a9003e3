"""Jobs beyond one request: 202, events, keys, cancelling."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gateway.served import Served, until
from unit.fake_engine import FakeEngine

LATER = {"prefer": "respond-async"}


def _events(gateway: Served, job: str, last: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Id, kind and data of each event until the end."""
    headers = {"last-event-id": last} if last else {}
    with gateway.http.stream("GET", f"/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
                fields = {}


def test_respond_async_answers_at_once_and_the_job_has_its_places(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 0.4
    answer = gateway.post("paint", prompt="later", headers=LATER)
    assert answer.status_code == 202 and answer.headers["preference-applied"] == "respond-async"
    link = answer.headers["location"]
    assert gateway.http.get(link).json()["state"] in ("queued", "running")
    early = gateway.http.get(f"{link}/result")
    assert early.status_code == 409 and early.json()["code"] == "job_not_finished"
    until(lambda: gateway.http.get(link).json()["state"] == "succeeded")
    assert gateway.http.get(f"{link}/result").headers["content-type"] == "image/jpeg"
    assert gateway.http.get(f"{link}/result", headers={"accept": "application/json"}).json()["state"] == "succeeded"


def test_wait_answers_the_picture_when_it_is_in_time(gateway: Served, engine: FakeEngine) -> None:
    prefer = {"prefer": "respond-async, wait=10"}
    assert gateway.post("paint", prompt="soon", headers=prefer).status_code == 200
    engine.seconds = 3.0
    began = time.monotonic()
    answer = gateway.post("paint", prompt="late", headers={"prefer": 'respond-async; wait="1"'})
    assert answer.status_code == 202 and 0.9 < time.monotonic() - began < 2.5
    gateway.http.delete(answer.headers["location"])


def test_events_tell_a_jobs_life_and_resume(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 0.6
    job = gateway.post("paint", prompt="later", headers=LATER).json()["id"]
    events = list(_events(gateway, job))
    kinds = [kind for _, kind, _ in events]
    assert kinds[0] == "queued" and kinds[-2:] == ["fetching", "done"]
    assert {"running", "node", "step"} <= set(kinds) and kinds.count("running") == 1
    assert events[-1][2] == {"job_id": job, "state": "succeeded", "error": None}
    assert next(data for _, kind, data in events if kind == "node")["node"] == "Paint"
    ids = [event for event, _, _ in events]
    assert len(set(ids)) == len(ids)
    assert [event for event, _, _ in _events(gateway, job, last=ids[3])] == ids[4:]
    assert [event for event, _, _ in _events(gateway, job, last="another-7")] == ids


def test_those_who_wait_are_told_their_place(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 0.3
    jobs = [gateway.post("paint", prompt=str(n), headers=LATER).json() for n in range(6)]
    places = [data["position"] for _, kind, data in _events(gateway, jobs[-1]["id"]) if kind == "queued"]
    assert places == sorted(places, reverse=True) and places[0] == 5 and len(set(places)) >= 3
    assert [graph["1"]["inputs"]["text"] for graph in engine.graphs[-6:]] == [str(n) for n in range(6)]


@pytest.mark.parametrize("waiting", [True, False])
def test_delete_cancels(gateway: Served, engine: FakeEngine, waiting: bool) -> None:
    engine.seconds = 5.0
    first = gateway.post("paint", prompt="running", headers=LATER).json()["id"]
    others = [gateway.post("paint", prompt="waiting", headers=LATER).json()["id"] for _ in range(3 if waiting else 0)]
    until(lambda: bool(engine.running))
    for job in reversed([first, *others]):
        answer = gateway.http.delete(f"/jobs/{job}")
        assert answer.status_code == 200 and answer.json()["state"] == "cancelled", answer.text
        assert gateway.http.delete(f"/jobs/{job}").json()["state"] == "cancelled"
        result = gateway.http.get(f"/jobs/{job}/result")
        assert result.status_code == 409 and result.json()["code"] == "cancelled"
    assert not engine.running and not engine.pending


def test_delete_changes_nothing_of_a_job_that_has_ended(gateway: Served) -> None:
    job = gateway.post("paint", prompt="done").headers["x-job-id"]
    assert gateway.http.delete(f"/jobs/{job}").json()["state"] == "succeeded"
    assert gateway.http.get(f"/jobs/{job}/result").status_code == 200


@pytest.mark.parametrize("job", ["nothing", "c26e4074-bbb6-4c7e-81c8-940983803505", "..%2f..%2fetc", "a" * 3000])
def test_unknown_jobs_are_404(gateway: Served, job: str) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/result"), ("DELETE", "")):
        answer = gateway.http.request(method, f"/jobs/{job}{path}")
        assert answer.status_code == 404 and answer.json()["code"] in ("job_not_found", "no_such_route")


# --- Idempotency-Key --------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_stored_result(gateway: Served, engine: FakeEngine) -> None:
    key, runs = {"idempotency-key": uuid.uuid4().hex}, len(engine.executions)
    first = gateway.post("paint", prompt="once", headers=key)
    again = gateway.post("paint", prompt="once", headers=key)
    form = gateway.http.post("/paint", data={"prompt": "once"}, files={"x": b""}, headers=key)
    assert form.status_code == 422  # an unknown field
    assert first.status_code == again.status_code == 200
    assert first.content == again.content and first.headers["x-seed"] == again.headers["x-seed"]
    assert len(engine.executions) == runs + 1
    told = gateway.post("paint", prompt="once", headers={**key, "accept": "application/json"}).json()
    assert told["id"] == first.headers["x-job-id"]


def test_the_same_key_for_another_request_is_a_conflict(gateway: Served) -> None:
    key = {"idempotency-key": uuid.uuid4().hex}
    assert gateway.post("paint", prompt="one", headers=key).status_code == 200
    for fields in ({"prompt": "two"}, {"prompt": "one", "width": 96}):
        answer = gateway.http.post("/paint", json=fields, headers=key)
        assert answer.status_code == 409 and answer.json()["code"] == "idempotency_conflict"


def test_requests_with_one_key_at_once_are_one_job(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 0.5
    key, runs = {"idempotency-key": uuid.uuid4().hex}, len(engine.posts)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{gateway.url}/paint", json={"prompt": "x"}, headers=key, trust_env=False))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-job-id"] for answer in answers}) == 1 and len(engine.posts) == runs + 1


def test_a_key_makes_the_job_outlive_its_client(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 1.5
    key = {"idempotency-key": uuid.uuid4().hex}
    with pytest.raises(httpx.ReadTimeout):
        gateway.http.post("/paint", json={"prompt": "kept"}, headers=key, timeout=0.4)
    assert gateway.post("paint", prompt="kept", headers=key).status_code == 200


def test_a_failure_is_replayed_too(gateway: Served, engine: FakeEngine) -> None:
    engine.faults.add("node error")
    key = {"idempotency-key": uuid.uuid4().hex}
    first = gateway.post("paint", prompt="bad", headers=key)
    engine.faults.clear()
    assert gateway.post("paint", prompt="bad", headers=key).json() == first.json() and first.status_code == 502


@pytest.mark.parametrize("key", ["a b", "ü", "x" * 256])
def test_a_bad_key_is_refused(gateway: Served, key: str) -> None:
    answer = gateway.http.post("/paint", json={"prompt": "x"}, headers={"idempotency-key": key.encode()})
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request"
