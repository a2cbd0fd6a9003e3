"""The parts of a cluster that need no Ray: the bus that asks all replicas, a replica's jobs, its folder."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ryla_nodes.client import Phase, Progress, Result, State, Timings
from ryla_nodes.errors import RylaError
from ryla_nodes.gateway.cluster import bus, work
from ryla_nodes.gateway.cluster.bus import Bus
from ryla_nodes.gateway.cluster.process import Place
from ryla_nodes.gateway.cluster.work import Work, Works


def _result(server: str = "r") -> Result:
    return Result(State.SUCCEEDED, None, "paint", {}, 1, server, "p", (), {}, Timings(0.0, 1.0, 1.0))


async def _replica(asked: Bus, name: str, answer: Any, log: list[str]) -> None:
    while True:
        for question in await asked.fetch(name):
            log.append(f"{name} {question.method} {question.arguments[0]}")
            await asked.answer(question.number, name, answer)


def test_a_question_reaches_every_replica_and_one_that_is_silent_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bus, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(bus, "_GONE_SECONDS", 0.3)

    async def scene() -> None:
        asked, log = Bus(), list[str]()
        assert await asked.ask("result_of", ("p",), None) == {}, "nobody is there"
        replicas = [asyncio.ensure_future(_replica(asked, name, name.upper(), log)) for name in ("a", "b")]
        await asyncio.sleep(0.05)
        assert await asked.ask("result_of", ("p",), None) == {"a": "A", "b": "B"}
        assert sorted(log) == ["a result_of p", "b result_of p"]
        replicas[1].cancel()
        assert await asked.ask("stop", ("q",), 5.0) == {"a": "A"}, "the other one fetches no questions any more"
        replicas[0].cancel()
        await asyncio.gather(*replicas, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_an_answer_that_takes_too_long_is_left_out() -> None:
    async def scene() -> None:
        asked = Bus()
        assert await asyncio.gather(asked.fetch("a"), _soon(asked.ask("stop", ("p",), 0.1))) != []
        await asked.answer(99, "a", "to a question that nobody remembers")

    async def _soon(question: Any) -> Any:
        await asyncio.sleep(0.01)
        assert await question == {}
        return "late"

    asyncio.run(asyncio.wait_for(scene(), 10))


class Running:
    """The job that an engine has."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def test_a_job_that_is_stopped_before_it_begins_is_stopped_when_it_does() -> None:
    async def scene() -> None:
        job, running = Work(), Running()
        job.stop()
        job.begin(running)  # type: ignore[arg-type]
        assert running.cancelled
        job.end(_result())
        assert (await job.over()).ok

    asyncio.run(scene())


def test_who_follows_a_job_hears_of_it_now_and_then_and_of_its_end_at_once() -> None:
    async def scene() -> list[Any]:
        job = Work()

        async def happens() -> None:
            for step in range(40):
                job.show(Progress(Phase.RUNNING, step=step, steps=40))
                await asyncio.sleep(0.01)
            job.end(_result())

        happening = asyncio.ensure_future(happens())
        told = [report async for report in job.reports()]
        await happening
        return told

    told = asyncio.run(scene())
    assert isinstance(told[-1], Result) and 2 <= len(told) < 30 and told[0].step == 0


def test_only_some_jobs_that_are_over_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(work, "_KEPT", 3)
        works = Works()
        goes_on = works.add("goes on")
        for number in range(6):
            works.add(str(number)).end(_result())
        works.add("new")
        assert works.get("goes on") is goes_on and works.get("5") is not None and works.get("1") is None
        monkeypatch.setattr(work, "_KEPT_SECONDS", -1.0)
        works.add("newer")
        assert works.get("5") is None and works.get("goes on") is goes_on

    asyncio.run(scene())


def test_a_replica_deletes_what_one_that_was_killed_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, lives = tmp_path / "ryla-replica-999999999-x", tmp_path / f"ryla-replica-{os.getpid()}-y"
    for folder in (left, lives):
        (folder / "photos").mkdir(parents=True)
    place = Place.new()
    assert not left.exists() and lives.exists()
    (place.uploads / "p-0.png").touch()
    (place.uploads / "q-0.png").touch()
    copy = place.inputs / "ryla" / f"{'a' * 24}.png"
    copy.parent.mkdir()
    copy.touch()
    place.forget("p", ["a" * 64])
    assert [path.name for path in place.uploads.iterdir()] == ["q-0.png"] and not copy.exists()
    place.remove()
    assert not place.folder.exists()


def test_an_error_comes_through_a_pickle() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(RylaError("gpu_oom", "The GPU is full.", hint="Use less.", seed=7)))
    assert (error.code, error.message, error.hint, error.details) == (
        "gpu_oom",
        "The GPU is full.",
        "Use less.",
        {"seed": 7},
    )
