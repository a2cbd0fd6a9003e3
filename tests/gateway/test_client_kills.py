"""A gateway that is killed while a client's job goes on: the next process takes it on, or the client says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway.process import ServeProcess
from gateway.served import add_workflows, until
from ryla_nodes.client import GatewayClient, GatewayResult, Limits, Submission
from ryla_nodes.errors import RylaError
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(make=jpeg, seconds=2.0) as fake:
        yield fake


@pytest.fixture(autouse=True)
def well() -> None:
    """These engines are each test's own, and as slow as they were made."""


@pytest.fixture
def gateway(engine: FakeEngine, tmp_path: Path) -> Iterator[ServeProcess]:
    environment = {"RYLA_WORKFLOWS": str(add_workflows(tmp_path / "w")), "RYLA_HOME": str(tmp_path / "home")}
    arguments = ["--server", engine.url, "--workflow", "paint"]
    with ServeProcess(tmp_path / "state", arguments, environment) as process:
        yield process


def test_a_job_goes_on_over_a_kill(gateway: ServeProcess, engine: FakeEngine) -> None:
    with GatewayClient(gateway.url) as client:
        job = client.submit("paint", {"prompt": "slow", "seed": 4})
        until(lambda: bool(engine.running))
        gateway.kill()
        gateway.start()
        result = client.wait(job)
        assert result.ok, result.error
    assert len(engine.started) == 1 and isinstance(result, GatewayResult) and result.job_id == job.prompt_id


def test_a_kill_between_the_post_and_its_answer_makes_no_second_job(gateway: ServeProcess, engine: FakeEngine) -> None:
    engine.seconds = 0.3
    with GatewayClient(gateway.url) as client:
        client.workflow("paint")
        jobs = [client.start("paint", {"prompt": str(n)}) for n in range(6)]
        time.sleep(0.05)
        gateway.kill()
        gateway.start()
        results = [client.wait(job) for job in jobs]
    assert all(result.ok for result in results), [result.error for result in results]
    assert len(engine.started) == len(jobs) == len({picture.data for result in results for picture in result.pictures})


def test_a_kill_before_the_engine_has_the_job_loses_nothing(gateway: ServeProcess, engine: FakeEngine) -> None:
    """The gateway had noted where it would post the job, and the engine never got it: the next process posts it."""
    engine.faults.add("submit never answered, not taken")
    with GatewayClient(gateway.url) as client:
        job = client.start("paint", {"prompt": "unheard"})
        until(lambda: bool(engine.posts))
        gateway.kill()
        gateway.start()
        result = client.wait(job)
    assert result.ok, result.error
    assert len(engine.started) == 1 and len(engine.posts) == 2


@pytest.mark.parametrize("taken_up", [False, True])
def test_a_kill_after_the_engine_had_the_job_runs_it_no_second_time(
    gateway: ServeProcess, engine: FakeEngine, tmp_path: Path, taken_up: bool
) -> None:
    """It ran, and the engine has forgotten it since: that is said, with the seed to run it again by. Also if only the
    second of three processes came to note that the engine has it.
    """
    engine.seconds = 20.0

    def notes() -> list[Path]:
        return list((tmp_path / "state").rglob("accepted"))

    with GatewayClient(gateway.url) as client:
        job = client.start("paint", {"prompt": "slow", "seed": 4})
        until(lambda: bool(engine.running and notes()))
        gateway.kill()
        if taken_up:
            for note in notes():
                note.unlink()
            gateway.start()
            until(lambda: bool(notes()))
            gateway.kill()
        engine.kill()
        engine.start()
        gateway.start()
        result = client.wait(job)
    assert result.error is not None and result.error.code == "job_lost" and "--seed 4" in result.error.hint
    assert len(engine.started) == 1


def test_a_kill_after_the_engine_had_a_second_attempt_runs_it_no_third_time(
    gateway: ServeProcess, engine: FakeEngine, tmp_path: Path
) -> None:
    """The first ran out of the GPU's memory; the second is another job to the engine, which has forgotten it."""
    engine.faults.add("oom once")
    engine.seconds = 0.1

    def slow_from_now_on() -> None:
        engine.seconds = 20.0

    engine.on_execute = slow_from_now_on

    def noted() -> bool:
        notes = (tmp_path / "state").rglob("accepted")
        return any(note.read_bytes() == note.with_name("submission.json").read_bytes() for note in notes)

    with GatewayClient(gateway.url) as client:
        job = client.start("paint", {"prompt": "slow", "seed": 4})
        until(lambda: len(engine.posts) == 2 and bool(engine.running))
        until(noted)
        gateway.kill()
        engine.kill()
        engine.start()
        gateway.start()
        result = client.wait(job)
    assert result.error is not None and result.error.code == "job_lost"
    assert len(engine.started) == 2


def test_a_second_attempt_of_a_job_that_was_taken_up_is_taken_up_too(gateway: ServeProcess, engine: FakeEngine) -> None:
    """The second process posts it again, since the first attempt ran out of the GPU's memory; the third finds it."""
    engine.faults.add("oom once")
    with GatewayClient(gateway.url) as client:
        job = client.start("paint", {"prompt": "slow", "seed": 4})
        until(lambda: bool(engine.running))
        gateway.kill()
        gateway.start()
        until(lambda: len(engine.started) == 2)
        gateway.kill()
        gateway.start()
        result = client.wait(job)
    assert result.ok, result.error
    assert len(engine.started) == 2


def test_a_gateway_that_stays_away_ends_the_wait_and_not_the_job(gateway: ServeProcess, engine: FakeEngine) -> None:
    noted: list[Submission] = []
    with GatewayClient(gateway.url, limits=Limits(gone_after=1.5)) as client:
        prompt = client.call(client.asynchronous.bound("paint", {"prompt": "slow"}))
        job = client.submit(prompt, on_submit=noted.append)
        gateway.kill()
        began = time.monotonic()
        with pytest.raises(RylaError) as caught:
            client.wait(job).required()
        assert time.monotonic() - began < 6
        assert caught.value.code == "gateway_gone" and caught.value.entry.exit_status == 4
        gateway.start()
        assert client.wait(client.attach(prompt, noted[0])).ok
    assert len(engine.started) == 1


def test_a_gateway_that_comes_back_in_time_takes_the_post(gateway: ServeProcess, engine: FakeEngine) -> None:
    engine.seconds = 0.05
    with GatewayClient(gateway.url, limits=Limits(patience=60.0)) as client:
        client.workflow("paint")
        gateway.kill()
        starting = threading.Timer(1.0, gateway.start)
        starting.start()
        assert client.run("paint", {"prompt": "x"}).ok
        starting.join()
