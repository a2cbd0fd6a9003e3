"""``GatewayClient`` on a running gateway, directly and through proxies that misbehave."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway.proxy import Proxy
from gateway.served import Served, photo, until
from PIL import Image
from ryla_nodes.client import (
    AsyncGatewayClient,
    Client,
    GatewayClient,
    GatewayResult,
    Limits,
    Phase,
    Preview,
    Progress,
    Result,
    State,
    Submission,
)
from ryla_nodes.errors import RylaError
from unit.fake_engine import FakeEngine, graph
from unit.fake_engine_parts import jpeg

QUICK = Limits(patience=0.3, gone_after=0.6, cancel_grace=5.0)


@pytest.fixture
def client(gateway: Served) -> Iterator[GatewayClient]:
    with GatewayClient(gateway.url, limits=QUICK) as one:
        yield one


def _gateway_result(result: Result) -> GatewayResult:
    assert isinstance(result, GatewayResult)
    return result


def _code(client: Any, *arguments: Any, **more: Any) -> RylaError:
    with pytest.raises(RylaError) as caught:
        client.run(*arguments, **more)
    return caught.value


# --- the same by another address --------------------------------------------------------------------------------------


def test_one_line_makes_the_difference(gateway: Served, engine: FakeEngine, tmp_path: Path) -> None:
    for make in (lambda: Client(engine.url, settings=gateway.options.settings), lambda: GatewayClient(gateway.url)):
        with make() as client:
            result = client.run("paint", {"prompt": "a fox", "seed": 7, "guidance_scale": 2}, timeout=30)
        assert result.state is State.SUCCEEDED and result.ok and result.seed == 7 and result.attempts == 1
        assert result.parameters["guidance"] == 2.0 and result.parameters["width"] == 64
        assert engine.executions[-1] == result.prompt_id and result.timings.execution is not None
        (path,) = result.save(tmp_path / "fox.jpg")
        assert Image.open(path).format == "JPEG" and engine.executions[-1].encode() in path.read_bytes()
    assert engine.graphs[-1]["1"]["inputs"] == engine.graphs[-2]["1"]["inputs"]


def test_a_gateways_result_tells_more(client: GatewayClient, gateway: Served) -> None:
    result = _gateway_result(client.run("paint", {"prompt": "a fox"}))
    told = gateway.http.get(f"/jobs/{result.job_id}").json()
    assert told["state"] == "succeeded" and told["seed"] == result.seed
    assert result.timings.execution == told["execution_seconds"] and result.timings.queued == told["queue_seconds"]
    assert result.server == gateway.url and (result.cost_usd, result.face_similarity, result.lora_used) == (
        None,
        None,
        "",
    )


def test_asyncio(gateway: Served) -> None:
    async def run() -> list[Result]:
        async with AsyncGatewayClient(gateway.url) as client:
            return list(await asyncio.gather(*(client.run("paint", {"prompt": str(n)}) for n in range(5))))

    results = asyncio.run(run())
    assert len({_gateway_result(result).job_id for result in results}) == 5


def test_map_gives_the_rows_in_order(client: GatewayClient, engine: FakeEngine) -> None:
    rows = [{"prompt": f"row {n}", "seed": n} for n in range(12)]
    results = list(client.map("paint", rows))
    assert [result.seed for result in results] == list(range(12)) and all(result.ok for result in results)
    with pytest.raises(RylaError, match="width"):
        next(client.map("paint", [{"prompt": "x"}, {"prompt": "x", "width": 65}]))


def test_a_photo_is_sent(client: GatewayClient, engine: FakeEngine, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    path.write_bytes(photo())
    assert client.run("portrait", {"prompt": "a face", "reference_image": path}).ok
    assert photo() in engine.uploads.values()


def test_progress_is_told_by_events(client: GatewayClient, engine: FakeEngine) -> None:
    engine.seconds = 0.6
    seen: list[Progress] = []
    client.run("paint", {"prompt": "slow"}, on_progress=seen.append)
    assert {Phase.QUEUED, Phase.RUNNING, Phase.FETCHING} <= {each.phase for each in seen}
    assert {"Paint"} <= {each.node for each in seen} and 4 in {each.step for each in seen}


def test_previews_on_request(client: GatewayClient, engine: FakeEngine) -> None:
    engine.seconds = 1.5
    engine.faults.add("preview")
    seen: list[Preview] = []
    client.run("paint", {"prompt": "slow"}, on_preview=seen.append)
    assert seen and all(each.data == jpeg("preview") and each.type == "image/jpeg" for each in seen)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_refusals_are_typed(client: GatewayClient, engine: FakeEngine, tmp_path: Path) -> None:
    posts = len(engine.posts)
    assert _code(client, "pain", {"prompt": "x"}).code == "unknown_workflow"
    error = _code(client, "paint", {"promt": "x"})
    assert error.code == "unknown_parameter" and '"prompt"' in error.message
    assert _code(client, "paint").code == "missing_parameter"
    assert _code(client, "paint", {"prompt": "x", "width": 1000}).code == "invalid_parameter"
    assert (
        _code(client, "portrait", {"prompt": "x", "reference_image": tmp_path / "no.png"}).code == "invalid_parameter"
    )
    assert len(engine.posts) == posts
    assert _code(client, "paint", {"prompt": "x" * 40_000}).code == "invalid_parameter"  # The gateway's own limit.


def test_a_graph_is_not_for_a_gateway(client: GatewayClient) -> None:
    from ryla_nodes.client import from_graph

    assert _code(client, from_graph(graph(), ["3"])).code == "invalid_graph"


@pytest.mark.parametrize(
    ("fault", "code"), [("node error", "node_failed"), ("our error", "no_face"), ("oom", "gpu_oom")]
)
def test_a_jobs_failure_is_the_engines(client: GatewayClient, engine: FakeEngine, fault: str, code: str) -> None:
    engine.faults.add(fault)
    error = _code(client, "paint", {"prompt": "x", "seed": 5})
    assert error.code == code and error.details["seed"] == 5 and error.details["job_id"] and error.hint


def test_an_engine_is_no_gateway_and_a_gateway_no_engine(gateway: Served, engine: FakeEngine) -> None:
    with GatewayClient(engine.url, limits=QUICK) as wrong:
        error = _code(wrong, "paint", {"prompt": "x"})
    assert error.code == "not_a_gateway" and error.hint == f"--server {engine.url}" and error.entry.exit_status == 4
    with Client(gateway.url, limits=QUICK, settings=gateway.options.settings) as other:
        error = _code(other, "paint", {"prompt": "x"})
    assert error.code == "not_comfyui" and error.hint == f"--gateway {gateway.url}"


def test_nobody_there(tmp_path: Path) -> None:
    began = time.monotonic()
    with GatewayClient("http://127.0.0.1:9", limits=QUICK) as client:
        error = _code(client, "paint", {"prompt": "x"})
    assert error.code == "engine_unreachable" and error.entry.exit_status == 4 and time.monotonic() - began < 3


def test_something_else_is_there(engine: FakeEngine) -> None:
    engine.faults.add("not comfyui")
    with GatewayClient(engine.url, limits=QUICK) as client:
        assert _code(client, "paint", {"prompt": "x"}).code == "not_a_gateway"


# --- once, whatever happens to the answer -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["502 after", "reset after", "502 before", "no place"])
def test_a_job_is_made_once(gateway: Served, engine: FakeEngine, fault: str) -> None:
    runs = len(engine.started)
    with Proxy(lambda: gateway.url, fault) as proxy, GatewayClient(proxy.url) as client:
        assert client.run("paint", {"prompt": fault}).ok
        assert len(proxy.keys()) == 2 and len(set(proxy.keys())) == 1 and proxy.keys()[0]
    assert len(engine.started) == runs + 1


def test_every_job_has_a_key_of_its_own(gateway: Served) -> None:
    with Proxy(lambda: gateway.url) as proxy, GatewayClient(proxy.url) as client:
        for _ in range(2):
            client.run("paint", {"prompt": "the same", "seed": 3})
        assert len(set(proxy.keys())) == 2


@pytest.mark.parametrize("fault", ["buffers", "no events", "cuts"])
def test_a_proxy_that_breaks_events_costs_only_time(gateway: Served, engine: FakeEngine, fault: str) -> None:
    engine.seconds = 0.8
    seen: list[Progress] = []
    with Proxy(lambda: gateway.url, fault) as proxy, GatewayClient(proxy.url) as client:
        began = time.monotonic()
        assert client.run("paint", {"prompt": "slow"}, on_progress=seen.append).ok
        assert time.monotonic() - began < 4
        if fault == "cuts":
            again = [headers for _, path, headers in proxy.requests if path.endswith("/events")]
            assert len(again) >= 2 and again[1]["Last-Event-ID"]
    assert "Paint" in {each.node for each in seen}


def test_a_picture_that_is_cut_off_is_no_result(gateway: Served) -> None:
    with Proxy(lambda: gateway.url, "half picture") as proxy, GatewayClient(proxy.url) as client:
        assert _code(client, "paint", {"prompt": "x"}).code == "bad_output"


# --- ending early -----------------------------------------------------------------------------------------------------


def test_cancelling_stops_the_job_on_the_engine(client: GatewayClient, engine: FakeEngine) -> None:
    engine.seconds = 20.0
    job = client.submit("paint", {"prompt": "long"})
    until(lambda: bool(engine.running))
    began = time.monotonic()
    result = client.cancel(job)
    assert result.state is State.CANCELLED and result.error is not None and result.error.code == "cancelled"
    assert time.monotonic() - began < 5 and not engine.running


def test_a_cancel_while_the_answer_is_lost_finds_the_job(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 20.0
    with Proxy(lambda: gateway.url) as proxy, GatewayClient(proxy.url) as client:
        client.workflow("paint")
        proxy.faults.add("502 after")
        job = client.start("paint", {"prompt": "long"})
        until(lambda: bool(engine.running))
        proxy.faults.add("down")
        time.sleep(0.3)
        threading.Timer(0.5, proxy.faults.discard, ("down",)).start()
        result = client.cancel(job)
    assert result.state is State.CANCELLED and not engine.running and not engine.pending


def test_a_cancel_that_nobody_confirms_says_so(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 3.0
    with Proxy(lambda: gateway.url) as proxy, GatewayClient(proxy.url, limits=Limits(cancel_grace=0.5)) as client:
        job = client.submit("paint", {"prompt": "long"})
        proxy.faults.add("down")
        result = client.cancel(job)
        assert result.error is not None and result.error.code == "cancel_unverified"
        assert result.error.entry.exit_status == 130 and result.error.details["job_id"] in result.error.message
        proxy.faults.clear()
        gateway.http.delete(f"/jobs/{result.error.details['job_id']}")


def test_the_deadline(client: GatewayClient, engine: FakeEngine) -> None:
    engine.seconds = 20.0
    began = time.monotonic()
    error = _code(client, "paint", {"prompt": "long"}, timeout=0.7)
    assert error.code == "timed_out" and error.details["verified"] and time.monotonic() - began < 5
    until(lambda: not engine.running)


def test_somebody_elses_cancel_is_not_ours(client: GatewayClient, gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 20.0
    job = client.submit("paint", {"prompt": "long"})
    gateway.http.delete(f"/jobs/{job.prompt_id}")
    result = client.wait(job)
    assert result.state is State.FAILED and result.error is not None and result.error.code == "interrupted_elsewhere"


# --- taking up, and what is gone --------------------------------------------------------------------------------------


def test_a_submission_is_taken_up_and_not_made_again(
    client: GatewayClient, gateway: Served, engine: FakeEngine
) -> None:
    noted: list[Submission] = []
    prompt = client.call(client.asynchronous.bound("paint", {"prompt": "once"}))
    first = client.wait(client.submit(prompt, on_submit=noted.append))
    runs = len(engine.started)
    with GatewayClient(gateway.url) as other:
        again = other.wait(other.attach(prompt, noted[0]))
    assert _gateway_result(again).job_id == _gateway_result(first).job_id and len(engine.started) == runs
    assert again.pictures[0].data == first.pictures[0].data
    changed = client.call(client.asynchronous.bound("paint", {"prompt": "another"}))
    result = client.wait(client.attach(changed, noted[0]))
    assert result.state is State.LOST and result.error is not None and result.error.code == "job_lost"
    elsewhere = client.wait(client.attach(prompt, Submission("http://other:1", str(uuid.uuid4()))))
    assert elsewhere.error is not None and elsewhere.error.code == "invalid_server"


def test_a_result_that_has_expired_is_lost(client: GatewayClient, gateway: Served, engine: FakeEngine) -> None:
    noted: list[Submission] = []
    prompt = client.call(client.asynchronous.bound("paint", {"prompt": "old", "seed": 11}))
    done = _gateway_result(client.wait(client.submit(prompt, on_submit=noted.append)))
    gateway.gateway.jobs.files.forget(done.job_id)
    result = client.wait(client.attach(prompt, noted[0]))
    assert result.state is State.LOST and result.error is not None
    assert result.error.code == "result_gone" and "--seed 11" in result.error.hint


def test_a_job_that_the_engine_lost_is_run_again_when_asked(client: GatewayClient, engine: FakeEngine) -> None:
    engine.faults.add("die")
    posts = len(engine.posts)
    job = client.start("paint", {"prompt": "x"}, reruns=1)
    until(lambda: len(engine.posts) > posts)
    engine.faults.clear()
    result = client.wait(job)
    assert result.ok and result.attempts == 2
