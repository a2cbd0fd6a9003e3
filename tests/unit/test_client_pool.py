"""Several engines: who gets a job, who is set aside, and when a job may move."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ryla_nodes import settings
from ryla_nodes.client import AsyncClient, Client, Result, State, Submission, from_graph
from ryla_nodes.client.pool import Member, Pool
from ryla_nodes.errors import RylaError
from ryla_nodes.workflows.manifest import load
from ryla_nodes.workflows.workflow import bind
from unit.fake_engine import FakeEngine, engines, graph
from unit.fake_engine_parts import add_workflow
from unit.test_client_faults import FAST, _until

PROMPT = from_graph(graph(), ["3"])


def _client(*fakes: FakeEngine) -> Client:
    return Client(*(fake.url for fake in fakes), limits=FAST)


def test_a_lora_stays_where_it_is_loaded() -> None:
    with engines(2, seconds=0.01) as fakes, _client(*fakes) as client:
        wants = {lora: frozenset({"workflow:flux-lora", f"lora:{lora}"}) for lora in "ab"}
        prompts = {lora: replace(PROMPT, wants=wants[lora]) for lora in "ab"}
        first = [client.start(prompts[lora], timeout=9) for lora in "ab"]
        where = {lora: {client.wait(job).server} for lora, job in zip("ab", first, strict=True)}
        for lora in "baabbaba":
            where[lora].add(client.wait(client.start(prompts[lora], timeout=9)).server)
    assert len(where["a"]) == len(where["b"]) == 1 and where["a"] != where["b"]


def test_a_bound_prompt_says_what_it_keeps_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also each row of a ``map``: a LoRA's jobs go where it is loaded."""
    known = settings.load({})
    workflow = load("flux-lora", known)
    prompt = bind(workflow, {"prompt": "a fox", "lora_id": "anna"})
    assert prompt.wants == {"workflow:flux-lora", "lora:anna", *(f"model:{model}" for model in workflow.models)}
    assert "lora:" not in " ".join(bind(workflow, {"prompt": "a", "lora_id": "b"}).wants - {"lora:b"})
    assert PROMPT.wants == {"workflow:graph"}
    wanted: list[frozenset[str]] = []

    async def lease(pool: Pool, wants: frozenset[str], **_: object) -> Member:
        wanted.append(wants)
        raise RylaError("engine_unreachable", "No.")

    monkeypatch.setattr(Pool, "lease", lease)
    with Client(settings=known) as client:
        list(client.map("flux-lora", [{"prompt": "a fox", "lora_id": "anna"}]))
    assert wanted == [prompt.wants]


def test_affinity_gives_way_to_a_long_queue() -> None:
    with engines(2, seconds=0.01) as (first, second), _client(first, second) as client:
        prompt = replace(PROMPT, wants=frozenset({"lora:a"}))
        assert client.wait(client.start(prompt, timeout=9)).server == first.url
        for _ in range(4):
            first.add_other(5)
        time.sleep(2.1)  # what the pool knows of a queue is at most 2 s old
        assert client.wait(client.start(prompt, timeout=9)).server == second.url


@pytest.mark.parametrize(
    "fault", ["http 429", "http 403", "http 500", "not comfyui", "login", "dead worker", "missing model", "our check"]
)
def test_a_job_that_never_started_moves_and_the_engine_is_set_aside(fault: str) -> None:
    with engines(2, seconds=0.01) as (bad, good), _client(bad, good) as client:
        bad.faults.add(fault)
        results = [client.wait(client.start(PROMPT, timeout=9)) for _ in range(3)]
    assert {result.server for result in results} == {good.url} and all(result.ok for result in results)
    # What an engine lacks is asked anew for each job; one that is at fault is left alone for a while.
    assert len(bad.posts) <= (3 if fault in ("missing model", "our check") else 1) and not bad.executions


def test_an_engine_that_is_down_is_taken_back_when_it_is_up() -> None:
    with engines(2, seconds=0.01) as (first, second), _client(first, second) as client:
        first.kill()
        assert client.run(PROMPT).server == second.url
        first.start()
        second.kill()
        assert client.run(PROMPT).server == first.url


def test_a_job_that_may_have_started_does_not_move() -> None:
    with engines(2, seconds=20) as (first, second), _client(first, second) as client:
        job = client.submit(PROMPT)
        _until(lambda: bool(first.running))
        first.kill()
        result = client.wait(job)
    assert result.state is State.LOST and not second.posts and result.attempts == 1


def test_a_refusal_of_the_input_does_not_move() -> None:
    with engines(2) as (first, second), _client(first, second) as client:
        first.faults.add("invalid")
        result = client.wait(client.start(PROMPT, timeout=9))
    assert result.error is not None and result.error.code == "rejected_input" and not second.posts


def test_every_engine_down_names_each() -> None:
    with engines(2) as (first, second):
        pass
    with _client(first, second) as client, pytest.raises(RylaError) as caught:
        client.run(PROMPT)
    assert caught.value.code == "engine_unreachable"
    assert first.url in caught.value.message and second.url in caught.value.message


def test_a_later_process_takes_a_job_up() -> None:
    journal: list[Submission] = []
    with FakeEngine(seconds=0.6) as engine:
        with _client(engine) as client:
            client.submit(PROMPT, on_submit=journal.append)
        with _client(engine) as client:
            steps: list[int] = []
            job = client.attach(PROMPT, journal[0], timeout=9, on_progress=lambda now: steps.append(now.step))
            result = client.wait(job)
            assert result.ok and result.prompt_id == journal[0].prompt_id and engine.posts == [result.prompt_id]
            assert 4 in steps  # it hears the events of the job, too
            again = client.wait(client.attach(PROMPT, journal[0]))
            assert again.ok and again.pictures[0].data == result.pictures[0].data
        engine.kill()
        engine.start()
        with _client(engine) as client:
            assert client.wait(client.attach(PROMPT, journal[0])).state is State.LOST
        with _client(engine) as client:
            other = Submission("http://127.0.0.1:1", journal[0].prompt_id)
            result = client.wait(client.attach(PROMPT, other))
            assert result.error is not None and result.error.code == "invalid_server"


def test_map_keeps_the_order_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    known = settings.load({"RYLA_WORKFLOWS": str(add_workflow(tmp_path))})
    rows = [{"prompt": f"p{number}"} for number in range(12)]

    async def all_of(*fakes: FakeEngine) -> list[Result]:
        async with AsyncClient(*(fake.url for fake in fakes), limits=FAST, settings=known) as client:
            return [result async for result in client.map("paint", rows)]

    with engines(2, seconds=0.01) as (first, second):
        first.faults.add("oom once")
        results = asyncio.run(all_of(first, second))
        assert first.executions and second.executions
    assert [result.parameters["prompt"] for result in results] == [row["prompt"] for row in rows]
    assert all(result.ok for result in results)
    with FakeEngine("node error", seconds=0.01) as engine, Client(engine.url, limits=FAST, settings=known) as client:
        codes = [result.error.code for result in client.map("paint", rows[:3]) if result.error is not None]
        assert codes == ["node_failed"] * 3
        with pytest.raises(RylaError, match="no parameter"):
            list(client.map("paint", [{"prompt": "a"}, {"promt": "b"}]))


def test_a_proxy_of_the_environment_does_not_come_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FakeEngine(seconds=0.01) as engine, _client(engine) as client:
        assert client.run(PROMPT).ok
        assert "GET /ws" in engine.requests


def test_the_engines_tell_of_themselves() -> None:
    with engines(2) as (first, second), _client(first, second) as client:
        second.kill()
        up, down = client.engines()
    assert up.info is not None and up.info.version == "0.33.0" and up.queued == 0 and up.error is None
    assert down.info is None and down.error is not None and down.error.code == "engine_unreachable"
