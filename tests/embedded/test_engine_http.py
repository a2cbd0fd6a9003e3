"""The HTTP routes of the embedded engine, with good and bad requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded.engine_client import Engine, new_id, node, picture, slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture
def busy(engine: Engine) -> Iterator[str]:
    """A job that runs throughout the test; gives its id."""
    prompt_id = engine.accept(slow(steps=9000))
    engine.wait_until_running(prompt_id)
    yield prompt_id
    engine.http.post("/queue", json={"clear": True}).raise_for_status()
    engine.http.post("/interrupt").raise_for_status()
    engine.wait(prompt_id)


def pending(engine: Engine) -> list[str]:
    return [job[1] for job in engine.get("/queue")["queue_pending"]]


def test_jobs_wait_in_the_order_of_their_numbers(engine: Engine, busy: str) -> None:
    first, second = engine.accept(picture(1)), engine.accept(picture(2))
    front = engine.accept(picture(3), front=True)
    early = engine.accept(picture(4), number=-1e9)
    assert pending(engine) == [early, front, first, second]
    job = engine.get("/queue")["queue_pending"][0]
    assert job[0] == -1e9 and job[2] == picture(4) and job[4] == ["3"]
    assert [job[1] for job in engine.get("/queue")["queue_running"]] == [busy]
    assert engine.get("/prompt") == {"exec_info": {"queue_remaining": 5}}


def test_the_engine_is_told_of_a_job_before_it_is_its_turn(
    engine: Engine, busy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(type(engine.engine), "expect", lambda self, prompt: told.append(prompt))
    waiting = engine.accept(picture(7))
    assert told == [picture(7)] and pending(engine) == [waiting]


def test_waiting_jobs_can_be_deleted(engine: Engine, busy: str) -> None:
    ids = [engine.accept(picture(color)) for color in range(4)]
    engine.http.post("/queue", json={"delete": [ids[1], new_id(), busy]}).raise_for_status()
    assert pending(engine) == [ids[0], ids[2], ids[3]]
    assert engine.http.post(f"/api/jobs/{ids[2]}/cancel").json() == {"cancelled": True}
    assert engine.http.post(f"/api/jobs/{ids[2]}/cancel").json() == {"cancelled": False}
    assert pending(engine) == [ids[0], ids[3]]
    engine.http.post("/queue", json={"clear": True}).raise_for_status()
    assert pending(engine) == []
    assert engine.get("/history/" + ids[0]) == {}


def test_a_job_can_be_followed_and_cancelled_by_id(engine: Engine) -> None:
    running, waiting = engine.accept(slow(steps=9000)), engine.accept(slow(steps=1))
    engine.wait_until_running(running)
    assert engine.get(f"/api/jobs/{running}")["status"] == "in_progress"
    assert engine.get(f"/api/jobs/{waiting}")["status"] == "pending"
    assert engine.http.post(f"/api/jobs/{running}/cancel").json() == {"cancelled": True}
    engine.wait(waiting)
    cancelled, done = engine.get(f"/api/jobs/{running}"), engine.get(f"/api/jobs/{waiting}")
    assert (cancelled["status"], done["status"]) == ("cancelled", "completed")
    assert done["workflow"]["prompt"] == slow(steps=1) and done["outputs"]["2"]["values"][0] == "done"
    assert done["execution_end_time"] >= done["execution_start_time"] >= done["create_time"]
    assert engine.http.get(f"/api/jobs/{new_id()}").status_code == 404
    assert engine.http.post(f"/api/jobs/{running}/cancel").json() == {"cancelled": False}


def test_jobs_are_listed_by_status_and_page(engine: Engine) -> None:
    good = engine.accept(picture(color=77, prefix="listed"))
    bad = engine.accept({"1": node("RylaTest_Text", text="x", fail=1), "2": node("RylaTest_Show", value=["1", 0])})
    engine.wait(bad)
    listed = engine.get("/api/jobs?status=failed&limit=1")
    assert [job["id"] for job in listed["jobs"]] == [bad]
    assert listed["jobs"][0]["execution_error"]["exception_type"] == "ValueError"
    everything = engine.get("/api/jobs?sort_order=asc")["jobs"]
    shown = next(job for job in everything if job["id"] == good)
    assert shown["outputs_count"] == 1 and shown["preview_output"]["filename"] == "listed_00001_.png"
    assert engine.get("/api/jobs?offset=1")["pagination"]["total"] == len(everything)
    for query in ("status=done", "sort_by=size", "sort_order=up", "limit=0", "limit=x", "offset=-1"):
        assert engine.http.get(f"/api/jobs?{query}").status_code == 400, query


def test_ids_are_kept_and_must_be_canonical(engine: Engine) -> None:
    prompt_id = new_id()
    assert engine.accept(picture(color=5), prompt_id=prompt_id) == prompt_id
    assert engine.accept(picture(color=5), prompt_id=None) != prompt_id
    for wrong in ("mine", prompt_id.upper(), prompt_id.replace("-", ""), f"{{{prompt_id}}}", 5, [], ""):
        answer = engine.submit(picture(), prompt_id=wrong)
        assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_prompt_id", wrong
        assert answer.json()["node_errors"] == {}


def test_some_outputs_run_when_others_cannot(engine: Engine) -> None:
    graph = {**picture(color=8, prefix="partial"), "4": node("SaveImage", images=["2", 0])}
    answer = engine.submit(graph)
    assert answer.status_code == 200
    error = answer.json()["node_errors"]["4"]
    assert error["class_type"] == "SaveImage" and error["dependent_outputs"] == ["4"]
    assert error["errors"][0]["type"] == "required_input_missing"
    assert list(engine.wait(answer.json()["prompt_id"])["outputs"]) == ["3"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"{}", "no_prompt"),
        (b'{"prompt": []}', "invalid_prompt"),
        (b'{"prompt": {"1": 5}}', "invalid_prompt"),
        (b'{"prompt": {"1": {"class_type": ["EmptyImage"]}}}', "missing_node_type"),
        (b'{"prompt": {"1": {"class_type": "SaveImage", "inputs": 5}}}', "prompt_outputs_failed_validation"),
        (
            b'{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"images": [{}, 0]}}}}',
            "prompt_outputs_failed_validation",
        ),
        (b'{"prompt": {}}', "prompt_no_outputs"),
        (b'{"prompt": {}, "number": "first"}', "invalid_prompt"),
        (b'{"prompt": {}, "extra_data": 5}', "invalid_prompt"),
        (b'{"prompt": {}, "client_id": {}}', "invalid_prompt"),
        (b'{"prompt": {}, "partial_execution_targets": 5}', "invalid_json"),
    ],
)
def test_malformed_prompts_are_refused_and_do_no_harm(engine: Engine, body: bytes, kind: str) -> None:
    answer = engine.http.post("/prompt", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, kind)
    engine.succeed(picture(color=9))


@pytest.mark.parametrize("path", ["/queue", "/history", "/free", "/interrupt"])
def test_malformed_bodies_are_refused(engine: Engine, path: str) -> None:
    assert engine.http.post(path, content=b"{").status_code == 400
    assert engine.http.post(path, json=[]).status_code == 400
    if path in ("/queue", "/history"):
        for ids in (5, "all", [{}]):
            assert engine.http.post(path, json={"delete": ids}).status_code == 400


def test_an_unknown_class_is_named_with_what_there_is(engine: Engine) -> None:
    error = engine.submit({"1": node("NoSuchNode")}).json()["error"]
    assert error["type"] == "missing_node_type"
    assert "no class NoSuchNode" in error["message"] and "EmptyImage, EmptyLatentImage" in error["message"]
    assert error["extra_info"] == {"node_id": "1", "class_type": "NoSuchNode", "node_title": "NoSuchNode"}


def test_every_route_is_under_api_too(engine: Engine) -> None:
    for path in ("/prompt", "/queue", "/history", "/object_info/EmptyImage", "/features"):
        assert engine.get(f"/api{path}") == engine.get(path)
    assert engine.http.post("/api/prompt", json={}).json()["error"]["type"] == "no_prompt"
    with engine.listen("x") as connection:
        assert json.loads(connection.recv())["type"] == "status"


def test_it_says_what_it_is(engine: Engine) -> None:
    stats = engine.get("/system_stats")
    assert stats["system"]["engine"]["name"] == "ryla-embedded"
    assert stats["system"]["comfyui_version"].endswith("+ryla.embedded")
    assert stats["system"]["ram_total"] > stats["system"]["ram_free"] > 0
    assert stats["devices"][0]["type"] in ("cpu", "cuda")
    assert engine.get("/features")["max_upload_size"] == 100 * 1024 * 1024
    assert "embedded engine" in engine.http.get("/").text


def test_object_info_has_comfyuis_form(engine: Engine) -> None:
    info = engine.get("/object_info")
    assert info["ImageScale"]["input"]["required"]["crop"] == [["disabled", "center"]]
    assert info["ImageScale"]["input"]["required"]["image"] == ["IMAGE"]
    assert info["SaveImage"]["input"]["hidden"] == {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
    assert info["RylaTest_Checked"]["input"]["required"]["word"][0] == "COMBO"
    assert info["RylaTest_Checked"]["python_module"] == "custom_nodes.ryla_nodes"
    assert engine.get("/object_info/ImageScale") == {"ImageScale": info["ImageScale"]}
    assert engine.get("/object_info/NoSuchNode") == {}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "{url}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_other_origins_are_refused(engine: Engine, headers: dict[str, str], status: int) -> None:
    given = {name: value.format(url=engine.url) for name, value in headers.items()}
    assert engine.http.get("/queue", headers=given).status_code == status


def test_bodies_have_a_limit(engine: Engine) -> None:
    body = b'{"prompt": "' + b"x" * (101 * 1024 * 1024) + b'"}'
    assert engine.http.post("/prompt", content=body).status_code == 413
    engine.succeed(picture(color=11))


def test_a_token_is_asked_for_when_others_can_reach_it(tmp_path: Path) -> None:
    with Engine(tmp_path, host="0.0.0.0", token="secret") as engine:
        engine.http.base_url = engine.url.replace("0.0.0.0", "127.0.0.1")
        assert engine.http.get("/queue").status_code == 401
        assert engine.http.get("/queue", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert engine.http.get("/queue", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_requests_are_answered_while_a_job_runs(engine: Engine, busy: str) -> None:
    started = time.monotonic()
    for _ in range(20):
        engine.get("/queue")
    assert (time.monotonic() - started) / 20 < 0.1
