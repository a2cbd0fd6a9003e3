"""Cancelling: the engine is told, the effect is verified, and what could not be verified is said."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ryla_nodes.client import AsyncClient, Client, Limits, State, from_graph
from ryla_nodes.errors import RylaError
from unit.fake_engine import FakeEngine, graph
from unit.test_client_faults import FAST, _until

PROMPT = from_graph(graph(), ["3"])
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_running_job_is_interrupted_and_no_other(legacy: bool) -> None:
    with FakeEngine(seconds=20, legacy=legacy) as engine, Client(engine.url, limits=FAST) as client:
        job = client.submit(PROMPT)
        other = engine.add_other(0.1)
        _until(lambda: len(engine.running) == 1)
        result = client.cancel(job)
        _until(lambda: other in engine.executions)
    assert result.state is State.CANCELLED and result.error is not None and result.error.code == "cancelled"
    assert result.error.entry.exit_status == 130


@pytest.mark.parametrize("legacy", [False, True])
def test_a_waiting_job_is_taken_out_of_the_queue(legacy: bool) -> None:
    with FakeEngine(legacy=legacy) as engine, Client(engine.url, limits=FAST) as client:
        other = engine.add_other(1.0)
        job = client.submit(PROMPT)
        result = client.cancel(job)
        assert result.state is State.CANCELLED and result.error is not None and result.error.code == "cancelled"
        _until(lambda: not engine.running)
        assert engine.executions == [other] and not engine.pending
    assert "POST /interrupt" not in engine.requests


@pytest.mark.parametrize("legacy", [False, True])
def test_a_job_that_cannot_be_stopped_is_not_called_stopped(legacy: bool) -> None:
    with FakeEngine("deaf", seconds=20, legacy=legacy) as engine, Client(engine.url, limits=FAST) as client:
        job = client.submit(PROMPT)
        _until(lambda: len(engine.running) == 1)
        began = time.monotonic()
        result = client.cancel(job)
        assert time.monotonic() - began < FAST.cancel_grace + 0.5
    assert result.state is State.CANCELLED and result.error is not None
    assert result.error.code == "cancel_unverified" and job.prompt_id in result.error.message


def test_a_job_that_ended_before_the_cancel_has_succeeded() -> None:
    with FakeEngine() as engine, Client(engine.url, limits=FAST) as client:
        job = client.submit(PROMPT)
        _until(lambda: job.prompt_id in engine.history)
        result = client.cancel(job)
    assert result.state is State.SUCCEEDED and result.pictures


def test_cancelling_while_the_submit_hangs() -> None:
    """Whether the engine took it is not known: it is found out, and the job does not survive."""
    with FakeEngine("submit unanswered", seconds=20) as engine, Client(engine.url, limits=FAST) as client:
        job = client.start(PROMPT, timeout=20)
        _until(lambda: bool(engine.posts))
        result = client.cancel(job)
        assert result.state is State.CANCELLED and result.error is not None and result.error.code == "cancelled"
        _until(lambda: not engine.running and not engine.pending)
    assert not engine.executions


def test_cancelling_while_the_submit_is_on_its_way() -> None:
    """The engine takes the prompt only after the cancellation: it must not outlive it."""
    limits = Limits(**{**FAST.__dict__, "submit": 5.0, "cancel_grace": 5.0})
    with FakeEngine("submit late", seconds=20, settle=0.7) as engine, Client(engine.url, limits=limits) as client:
        job = client.start(PROMPT, timeout=20)
        _until(lambda: bool(engine.posts))
        result = client.cancel(job)
        assert result.state is State.CANCELLED and result.error is not None and result.error.code == "cancelled"
        time.sleep(1.0)
        assert not engine.running and not engine.pending and not engine.executions


def test_cancelling_before_anything_was_sent() -> None:
    with FakeEngine("http 429") as engine, Client(engine.url, limits=FAST) as client:
        job = client.start(PROMPT, timeout=20, wait=20.0)
        _until(lambda: bool(engine.posts))
        result = client.cancel(job)
    assert result.state is State.CANCELLED and not engine.executions


def test_a_cancelled_coroutine_frees_the_engine_within_a_second() -> None:
    """What a gateway does when its client hangs up."""

    async def scenario(engine: FakeEngine) -> float:
        async with AsyncClient(engine.url, limits=FAST) as client:
            task = asyncio.ensure_future(client.run(PROMPT))
            while not engine.running:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - began

    with FakeEngine(seconds=20) as engine:
        assert asyncio.run(scenario(engine)) < 1.0
        assert not engine.running and not engine.executions


CTRL_C = """
import sys
from ryla_nodes.client import Client, Limits, from_graph
from ryla_nodes.errors import RylaError
from unit.fake_engine import graph
with Client(sys.argv[1], limits=Limits(cancel_grace=20)) as client:
    print("ready", flush=True)
    try:
        print(client.run(from_graph(graph(), ["3"])).state.value)
    except RylaError as error:
        print(error.code, error.message)
"""


def _child(engine: FakeEngine) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, engine.url],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    _until(lambda: len(engine.running) == 1, 20)
    return child


@pytest.mark.skipif(sys.platform == "win32", reason="Does not apply: SIGINT to a child is a POSIX thing")
def test_ctrl_c_once_cancels_and_waits_for_it() -> None:
    with FakeEngine(seconds=30) as engine:
        child = _child(engine)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=5)
        assert "cancelled Cancelled;" in out and not engine.running


@pytest.mark.skipif(sys.platform == "win32", reason="Does not apply: SIGINT to a child is a POSIX thing")
def test_ctrl_c_twice_leaves_at_once_and_says_what_may_go_on() -> None:
    with FakeEngine("deaf", seconds=30) as engine:
        child = _child(engine)
        child.send_signal(signal.SIGINT)
        _until(lambda: any("cancel" in request for request in engine.requests))
        time.sleep(0.3)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=5)
        assert time.monotonic() - began < 1.5
        assert "cancel_unverified Left at once" in out and engine.posts[0] in out


def test_the_sync_client_works_from_several_threads() -> None:
    failures: list[RylaError] = []
    with FakeEngine() as engine, Client(engine.url, limits=FAST) as client:

        def one() -> None:
            try:
                client.run(PROMPT)
            except RylaError as error:
                failures.append(error)

        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not failures and len(set(engine.executions)) == 8
