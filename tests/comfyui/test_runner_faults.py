"""The runner on a real ComfyUI: killed, restarted, cut off, busy with other people's work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from comfyui.process import Install
from comfyui.runner_support import Cable, free_port, process, quick, slow
from PIL import Image
from ryla_nodes.client import Client, Limits, Phase, Progress, State, from_graph
from ryla_nodes.client.comfyui_process import ComfyUIProcess
from ryla_nodes.errors import RylaError
from ryla_nodes.workflows.workflow import BoundPrompt, Upload

LIMITS = Limits(gone_after=3.0, doubt_after=1.5, cancel_grace=10.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runner")


@pytest.fixture(scope="module")
def server(comfyui_install: Install, base: Path) -> Iterator[ComfyUIProcess]:
    with process(comfyui_install, base, free_port()) as running:
        yield running


@pytest.fixture
def mortal(comfyui_install: Install, tmp_path: Path) -> Iterator[ComfyUIProcess]:
    """One of its own, to be killed."""
    with process(comfyui_install, tmp_path, free_port()) as running:
        yield running


@pytest.fixture
def client(server: ComfyUIProcess) -> Iterator[Client]:
    with Client(server.url, limits=LIMITS) as one:
        yield one


def _prompt(graph: dict[str, Any], *outputs: str) -> BoundPrompt:
    return from_graph(graph, outputs or ("3",))


def _until(true: Callable[[], bool], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _running(url: str) -> list[str]:
    return [item[1] for item in httpx.get(f"{url}/queue", trust_env=False).json()["queue_running"]]


def _pending(url: str) -> list[str]:
    return [item[1] for item in httpx.get(f"{url}/queue", trust_env=False).json()["queue_pending"]]


def _kill(running: ComfyUIProcess) -> None:
    assert running.pid is not None
    os.killpg(running.pid, signal.SIGKILL)


def test_it_runs_and_tells_how_far_it_is(client: Client) -> None:
    seen: list[Progress] = []
    result = client.run(_prompt(slow(8)), on_progress=seen.append)
    assert result.ok and result.timings.execution is not None and result.timings.execution > 0.2
    assert result.timings.total - result.timings.execution < 1.0
    assert {progress.node for progress in seen} >= {"Canvas", "Scale 3", "Shrink", "Result"}
    assert seen[-1].phase is Phase.FETCHING


def test_the_picture_is_the_graphs_own(client: Client, tmp_path: Path) -> None:
    result = client.run(_prompt(quick(0x102030)))
    (path,) = result.save(tmp_path / "a.png")
    with Image.open(path) as picture:
        assert picture.getpixel((5, 5)) == (0xEF, 0xDF, 0xCF)


def test_cancelling_the_running_job_spares_the_next(client: Client, server: ComfyUIProcess) -> None:
    job = client.submit(_prompt(slow(60)))
    following = client.submit(_prompt(quick()))
    _until(lambda: job.prompt_id in _running(server.url))
    began = time.monotonic()
    result = client.cancel(job)
    assert result.state is State.CANCELLED and result.error is not None and result.error.code == "cancelled"
    assert time.monotonic() - began < 3.0
    assert client.wait(following).ok


def test_cancelling_a_waiting_job_spares_the_running_one(client: Client, server: ComfyUIProcess) -> None:
    running = client.submit(_prompt(slow(12)))
    waiting = client.submit(_prompt(quick()))
    assert client.cancel(waiting).state is State.CANCELLED
    assert waiting.prompt_id not in _pending(server.url)
    assert client.wait(running).ok


def test_the_deadline_cancels_the_job(client: Client, server: ComfyUIProcess) -> None:
    began = time.monotonic()
    result = client.wait(client.start(_prompt(slow(100)), timeout=1.5))
    assert result.state is State.TIMED_OUT and time.monotonic() - began < 5.0
    _until(lambda: not _running(server.url))


def test_interrupted_by_somebody_else(client: Client, server: ComfyUIProcess) -> None:
    job = client.submit(_prompt(slow(60)))
    _until(lambda: job.prompt_id in _running(server.url))
    httpx.post(f"{server.url}/interrupt", json={}, trust_env=False)
    result = client.wait(job)
    assert result.error is not None and result.error.code == "interrupted_elsewhere"


def test_a_queue_full_of_other_peoples_work(client: Client, server: ComfyUIProcess) -> None:
    for _ in range(4):
        httpx.post(f"{server.url}/prompt", json={"prompt": slow(5)}, trust_env=False)
    ahead: list[int] = []
    result = client.run(_prompt(quick()), on_progress=lambda now: ahead.append(now.ahead) if now.ahead else None)
    assert result.ok and ahead and ahead == sorted(ahead, reverse=True) and result.timings.queued > 1.0


@pytest.mark.parametrize("how", ["cut", "mute"])
def test_a_websocket_that_is_cut_or_dead_costs_no_job(server: ComfyUIProcess, how: str) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with Cable(port) as cable, Client(cable.url, limits=LIMITS) as client:
        job = client.submit(_prompt(slow(20)))
        _until(lambda: job.prompt_id in _running(server.url))
        time.sleep(0.3)
        if how == "cut":
            assert cable.cut() >= 1
        else:
            cable.mute_websockets()
        result = client.wait(job)
    assert result.ok and result.timings.execution is not None
    assert result.timings.total - result.timings.queued - result.timings.execution < 2.5


ERRORS = {
    "missing_node": ({"2": {"class_type": "NoSuchNode", "inputs": {"image": ["1", 0]}}}, "NoSuchNode"),
    "invalid_graph": ({"1": {"class_type": "EmptyImage",
                             "inputs": {"width": 0, "height": 64, "batch_size": 1, "color": 0}}}, "width"),
    "node_failed": ({"2": {"class_type": "RunnerTestFail", "inputs": {"image": ["1", 0], "how": "error"},
                           "_meta": {"title": "Bad one"}}}, '"Bad one" (RunnerTestFail)'),
}  # fmt: skip


@pytest.mark.parametrize("code", ERRORS)
def test_errors_name_the_node(client: Client, code: str) -> None:
    change, says = ERRORS[code]
    with pytest.raises(RylaError) as caught:
        client.run(_prompt(quick() | change))
    assert caught.value.code == code and says in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize("code", ["missing_node", "rejected_input"])
def test_the_engines_own_refusal_is_read_too(client: Client, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The same without our own check before it."""

    async def unchecked(*_: object) -> None:
        return None

    monkeypatch.setattr("ryla_nodes.client.pool.Member.check", unchecked)
    change, says = ERRORS["missing_node" if code == "missing_node" else "invalid_graph"]
    with pytest.raises(RylaError) as caught:
        client.run(_prompt(quick() | change))
    assert caught.value.code == code and says in caught.value.message


def test_out_of_memory_is_tried_once_more(client: Client) -> None:
    bad = {"2": {"class_type": "RunnerTestFail", "inputs": {"image": ["1", 0], "how": "oom once"}}}
    result = client.run(_prompt(quick() | bad))
    assert result.ok and result.attempts == 2


def test_an_output_that_the_engine_leaves_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unchecked(*_: object) -> None:
        return None

    monkeypatch.setattr("ryla_nodes.client.pool.Member.check", unchecked)
    other = {"4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Second"}}}
    result = client.run(_prompt(quick() | other))
    assert result.ok and "filename_prefix" in result.warnings[0]
    with pytest.raises(RylaError) as caught:
        client.run(_prompt(quick() | other, "3", "4"))
    assert caught.value.code == "partial_validation" and '"Second"' in caught.value.message


def test_a_deleted_cached_picture_is_made_again(client: Client, server: ComfyUIProcess, base: Path) -> None:
    graph = quick(prefix="runner/cached")
    first = client.run(_prompt(graph))
    kept = client.run(_prompt(graph))
    assert kept.cached and kept.attempts == 1 and kept.pictures[0].data == first.pictures[0].data
    (base / "output" / kept.pictures[0].subfolder / kept.pictures[0].filename).unlink()
    made = client.run(_prompt(graph))
    assert made.attempts == 2 and made.pictures[0].filename != kept.pictures[0].filename


def test_a_photo_is_uploaded(client: Client, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 16), (10, 20, 30)).save(photo)
    graph = quick() | {"1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}}
    prompt = _prompt(graph)
    prompt = BoundPrompt(prompt.workflow, graph, {}, None, (Upload("1", "image", photo),), prompt.outputs)
    for _ in range(2):
        (picture,) = client.run(prompt).pictures
        assert picture.filename.startswith("quick")


def test_killed_and_never_back(mortal: ComfyUIProcess) -> None:
    with Client(mortal.url, limits=LIMITS) as client:
        job = client.submit(_prompt(slow(200)))
        _until(lambda: job.prompt_id in _running(mortal.url))
        began = time.monotonic()
        _kill(mortal)
        result = client.wait(job)
    assert result.state is State.LOST and result.error is not None and result.error.code == "server_gone"
    assert time.monotonic() - began < LIMITS.gone_after + 2.0
    crash = mortal.crash()
    assert crash is not None and "SIGKILL" in crash.message and "got prompt" in crash.message


def test_killed_and_restarted(mortal: ComfyUIProcess) -> None:
    patient = Limits(gone_after=120.0)
    with Client(mortal.url, limits=patient) as client:
        job = client.submit(_prompt(slow(200)))
        _until(lambda: job.prompt_id in _running(mortal.url))
        _kill(mortal)
        mortal.stop()
        mortal.start()
        began = time.monotonic()
        result = client.wait(job)
        assert time.monotonic() - began < 5.0
        assert result.state is State.LOST and result.error is not None and result.error.code == "server_restarted"
        job = client.start(_prompt(quick()), timeout=60)
        assert client.wait(job).ok


def test_a_dead_worker_is_noticed(mortal: ComfyUIProcess) -> None:
    bad = {"2": {"class_type": "RunnerTestFail", "inputs": {"image": ["1", 0], "how": "worker"}}}
    with Client(mortal.url, limits=LIMITS) as client:
        began = time.monotonic()
        result = client.wait(client.start(_prompt(quick() | bad), timeout=60))
        assert result.error is not None and result.error.code == "zombie_worker"
        result = client.wait(client.start(_prompt(quick()), timeout=60))
        assert result.error is not None and result.error.code == "zombie_worker"
        assert time.monotonic() - began < 25.0
