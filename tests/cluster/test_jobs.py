"""Jobs on a real Ray cluster of two nodes: run, watched, cancelled, taken up again, and told when they cannot be.

Most of them are run with ``RYLA_TEST_LONG``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from typing import Any

import pytest
from cluster.conftest import World
from gateway.served import Served, add_workflows, photo, until
from long import long

CHARM = """
title = "Charm"
summary = "A workflow with a LoRA."
models = []
[[outputs]]
node = "Result"
kind = "image"
[parameters.prompt]
type = "text"
node = "Paint"
input = "text"
required = true
help = "What."
[parameters.lora_id]
type = "lora"
node = "Paint"
input = "lora_id"
default = ""
help = "Who."
[parameters.seed]
type = "seed"
node = "Paint"
input = "seed"
help = "The seed."
"""


def _ready(gateway: Served, seconds: float = 60.0) -> None:
    until(lambda: gateway.http.get("/ready").status_code == 200, seconds)


def _missing(gateway: Served, what: str, seconds: float = 60.0) -> dict[str, Any]:
    """The lack of this kind, once ``/ready`` tells it."""
    found: list[dict[str, Any]] = []

    def told() -> bool:
        found[:] = [lack for lack in gateway.http.get("/ready").json()["missing"] if lack["what"] == what]
        return bool(found)

    until(told, seconds)
    return found[0]


def _later(gateway: Served, prompt: str, **headers: str) -> str:
    answer = gateway.post("paint", {"prefer": "respond-async", **headers}, prompt=prompt)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _job(gateway: Served, job: str) -> dict[str, Any]:
    told: dict[str, Any] = gateway.http.get(f"/jobs/{job}").json()
    return told


def _ended(gateway: Served, job: str, seconds: float = 40.0) -> dict[str, Any]:
    until(lambda: _job(gateway, job)["state"] not in ("queued", "running"), seconds)
    return _job(gateway, job)


def test_a_picture_a_photo_and_what_is_told(world: World) -> None:
    with world.gateway(world.engines(min_replicas=2, max_replicas=2)) as gateway:
        _ready(gateway)
        answer = gateway.post("paint", prompt="a", seed=5)
        assert answer.status_code == 200, answer.text
        assert answer.content.startswith(b"\xff\xd8") and answer.headers["x-seed"] == "5"
        assert float(answer.headers["x-execution-time-sec"]) > 0
        fields = {"prompt": "b"}
        answer = gateway.http.post("/portrait", data=fields, files={"reference_image": ("p.png", photo())})
        assert answer.status_code == 200, answer.text
        world.say("seconds", "0.8")
        job = _later(gateway, "c")
        events = gateway.http.get(f"/jobs/{job}/events").text
        assert "event: running" in events and "event: step" in events and events.rstrip().endswith("}")
        assert "event: done" in events and _job(gateway, job)["state"] == "succeeded"
        assert gateway.http.get("/loras").json()["loras"], "the LoRAs of the engines are listed"
        jobs = [_later(gateway, f"both {number}") for number in range(4)]
        assert all(_ended(gateway, each)["state"] == "succeeded" for each in jobs)
        assert len({pid for _, pid, _ in world.starts()}) == 2, "two engines work at once"


@long
def test_cancelling_what_runs_and_what_waits(world: World) -> None:
    world.say("seconds", "20")
    with world.gateway(world.engines(ongoing=1)) as gateway:
        _ready(gateway)
        runs = _later(gateway, "runs")
        until(lambda: len(world.starts()) == 1)
        waits = _later(gateway, "waits")
        time.sleep(0.5)
        for job in (waits, runs):
            began = time.monotonic()
            gateway.http.delete(f"/jobs/{job}")
            assert _ended(gateway, job)["error"]["code"] == "cancelled" and time.monotonic() - began < 5
        world.say("seconds", "0.05")
        assert gateway.post("paint", prompt="after").status_code == 200, "the engine is free again"
        assert len(world.starts()) == 2
        world.say("seconds", "20")
    with world.gateway(None, timeout=2.0) as gateway:
        _ready(gateway)
        answer = gateway.post("paint", prompt="late")
        assert answer.status_code == 504 and answer.json()["code"] == "timed_out"


@long
@pytest.mark.parametrize("fault", ["crash", "dead worker"])
def test_a_replica_whose_engine_is_dead_is_replaced(world: World, fault: str) -> None:
    with world.gateway(world.engines()) as gateway:
        _ready(gateway)
        assert gateway.post("paint", prompt="before").status_code == 200
        pid = world.starts()[0][1]
        world.say(f"faults.{pid}", fault)
        time.sleep(0.3)
        answer = gateway.post("paint", prompt="meanwhile")
        assert answer.status_code == 200, answer.text
        assert {each for _, each, _ in world.starts()} - {pid}, "a new engine ran it"
        with pytest.raises(ProcessLookupError):
            until(lambda: os.kill(pid, 0) is not None, 20)


def test_a_gateway_that_is_killed_finds_its_job_where_it_was(world: World) -> None:
    world.say("seconds", "4")
    engines = world.engines()
    with world.gateway(engines) as gateway:
        _ready(gateway)
        job = _later(gateway, "a")
        until(lambda: len(world.starts()) == 1)
        # What ends here is a process without a word to the cluster: its jobs are abandoned, not cancelled.
    with world.gateway(engines) as gateway:
        told = _ended(gateway, job)
        assert told["state"] == "succeeded", told
        assert gateway.http.get(f"/jobs/{job}/result").content.startswith(b"\xff\xd8")
    assert len(world.starts()) == 1, "it ran once"


@long
def test_an_engine_that_does_not_start_shows_the_end_of_its_log(world: World) -> None:
    world.say("faults", "no start")
    with world.gateway(world.engines(ready_within=20.0)) as gateway:
        lack = _missing(gateway, "engine", 90)
        while "no kernel image" not in lack["message"]:
            lack = _missing(gateway, "engine", 90)
            time.sleep(0.2)
        assert "loading the model" in lack["message"] and "ended with status 3" in lack["message"]
        assert lack["fix"] == "ryla doctor"


@long
def test_two_versions_of_the_pack_are_refused_with_both_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.gateway(world.engines(version="9.9.9")) as gateway:
        message = ""
        end = time.monotonic() + 60
        while "9.9.9" not in message and time.monotonic() < end:
            message = _missing(gateway, "engine")["message"]
            time.sleep(0.2)
        assert "has version 0.1.0 of ryla-nodes, and its deployment has 9.9.9" in message
    for module in ("messages", "lookout"):
        monkeypatch.setattr(f"ryla_nodes.gateway.cluster.{module}.pack_version", lambda: "0.0.9")
    with world.gateway(world.engines()) as gateway:
        assert _missing(gateway, "version")["message"] == (
            "This gateway has version 0.0.9 of ryla-nodes, and engines of its cluster have 0.1.0."
        )
        answer = gateway.post("paint", prompt="a")
        assert answer.status_code == 503 and answer.json()["code"] == "pack_versions_differ"
        assert "0.0.9" in answer.json()["detail"] and "0.1.0" in answer.json()["detail"]


@long
def test_a_gpu_that_no_node_has_is_told(world: World) -> None:
    with world.gateway(world.engines(gpus=1.0)) as gateway:
        assert "wait for 1 GPU each" in _missing(gateway, "gpu")["message"]


@long
def test_a_gpu_that_a_node_only_says_it_has_is_told(world: World, nodes: Any) -> None:
    nodes.add_node(num_cpus=1, num_gpus=1)
    with world.gateway(world.engines(kind="embedded", command=(), gpus=1.0)) as gateway:
        lack = _missing(gateway, "engine", 120)
        while "promised a GPU" not in lack["message"]:
            time.sleep(0.2)
            lack = _missing(gateway, "engine", 120)
        assert "its engine found none: it runs on the CPU" in lack["message"]


@long
def test_from_no_replica_to_some_and_back(world: World) -> None:
    with world.gateway(world.engines(min_replicas=0, max_replicas=2, idle_seconds=3.0)) as gateway:
        _ready(gateway)
        assert gateway.http.get("/ready").json()["engines"][0]["replicas"] == 0
        answers: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(gateway.post("paint", prompt=os.urandom(4).hex()).status_code)
            )
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 20
        until(lambda: gateway.http.get("/ready").json()["engines"][0]["replicas"] == 0, 40)


@long
def test_a_node_that_is_lost_in_mid_job(world: World, nodes: Any) -> None:
    node = nodes.add_node(num_cpus=4)
    # Each takes so much that every node has one.
    with world.gateway(world.engines(cpus=3, min_replicas=3, max_replicas=3, ongoing=1)) as gateway:
        until(lambda: gateway.http.get("/ready").json()["engines"][0].get("replicas") == 3, 90)
        world.say("seconds", "4")
        time.sleep(0.3)
        jobs = [_later(gateway, str(number)) for number in range(3)]
        until(lambda: len(world.starts()) == 3)
        nodes.remove_node(node, allow_graceful=False)
        for job in jobs:
            assert _ended(gateway, job, 90)["state"] == "succeeded"
            assert gateway.http.get(f"/jobs/{job}/result").content.startswith(b"\xff\xd8")
    runs = Counter(prompt for prompt, _, _ in world.starts())
    assert sorted(runs.values()) == [1, 1, 2], "only what went with the node ran again"


@long
def test_a_character_goes_to_the_replica_that_had_it(world: World) -> None:
    folder = world.root / "workflows"
    add_workflows(folder)
    (folder / "charm").mkdir()
    node = {"class_type": "FakePaint", "inputs": {"text": "", "seed": 0, "lora_id": ""}, "_meta": {"title": "Paint"}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}}
    graph = {"1": node, "2": {**save, "_meta": {"title": "Result"}}}
    (folder / "charm" / "api.json").write_text(json.dumps(graph))
    (folder / "charm" / "workflow.toml").write_text(CHARM)
    with world.gateway(world.engines(min_replicas=2, max_replicas=2), workflows=("charm",)) as gateway:
        _ready(gateway)
        until(lambda: gateway.http.get("/ready").json()["engines"][0]["replicas"] == 2, 60)
        for number in range(24):
            answer = gateway.post("charm", prompt=str(number), lora_id=("anna", "ben")[number % 2])
            assert answer.status_code == 200, answer.text
            time.sleep(0.1)
    late = world.starts()[-12:]
    assert {lora for _, _, lora in late} == {"anna", "ben"}
    assert len({(pid, lora) for _, pid, lora in late}) == 2, late
