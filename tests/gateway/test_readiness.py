"""/ready turns within five seconds of what happens to an engine or the disk, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway.served import MANIFEST, Served, options_of, served, until
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg

TURNS_WITHIN = 5.0


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(make=jpeg, seconds=0.02) as fake:
        fake.models = {"vae": ["ae.safetensors"], "loras": ["character-7.safetensors", "old.ckpt"]}
        yield fake


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("ready")
    options = options_of(root, engine.url)
    manifest = root / "workflows" / "paint" / "workflow.toml"
    manifest.write_text(MANIFEST.replace("models = []", 'models = ["ae"]'), encoding="utf-8")
    with served(options) as one:
        until(lambda: one.http.get("/ready").status_code == 200)
        yield one


def _missing(gateway: Served) -> list[dict[str, Any]]:
    missing: list[dict[str, Any]] = gateway.http.get("/ready").json()["missing"]
    return missing


def _turns(gateway: Served, ready: bool) -> None:
    began = time.monotonic()
    until(lambda: (gateway.http.get("/ready").status_code == 200) is ready)
    assert time.monotonic() - began < TURNS_WITHIN


def _kill(engine: FakeEngine, gateway: Served) -> Callable[[], None]:
    engine.kill()
    return engine.start


def _fault(name: str) -> Callable[[FakeEngine, Served], Callable[[], None]]:
    def make(engine: FakeEngine, gateway: Served) -> Callable[[], None]:
        engine.faults.add(name)
        return engine.faults.clear

    return make


def _stuck(engine: FakeEngine, gateway: Served) -> Callable[[], None]:
    """Jobs wait, nothing runs, and the log says nothing."""
    engine.faults.add("dead worker")
    other = engine.add_other(0.01)

    def mend() -> None:
        engine.faults.clear()
        engine.remove(other)

    return mend


def _no_model(engine: FakeEngine, gateway: Served) -> Callable[[], None]:
    before, engine.models = engine.models, {"vae": []}

    def mend() -> None:
        engine.models = before

    return mend


def _full(engine: FakeEngine, gateway: Served) -> Callable[[], None]:
    readiness: Any = gateway.gateway.readiness
    before, readiness._free_bytes = readiness._free_bytes, lambda path: 0

    def mend() -> None:
        readiness._free_bytes = before

    return mend


@pytest.mark.parametrize(
    ("harm", "what", "says"),
    [
        (_kill, "engine", "does not answer"),
        (_fault("not comfyui"), "engine", "is not a ComfyUI"),
        (_fault("dead worker logged"), "worker", "Restart"),
        (_stuck, "worker", "runs none"),
        (_fault("no ws"), "websocket", "/ws"),
        (_fault("ws hangs"), "websocket", "/ws"),
        (_fault("no SaveImage"), "node", "SaveImage"),
        (_no_model, "model", "ryla models install ae"),
        (_full, "disk", "MiB free"),
    ],
    ids=["down", "another", "worker log", "worker stuck", "no websocket", "websocket hangs", "node", "model", "disk"],
)
def test_ready_turns_and_back(gateway: Served, engine: FakeEngine, harm: Any, what: str, says: str) -> None:
    mend = harm(engine, gateway)
    try:
        _turns(gateway, False)
        missing = _missing(gateway)
        assert any(each["what"] == what for each in missing), missing
        assert says in " ".join(f"{each['message']} {each['fix']}" for each in missing)
        assert "127.0.0.1" not in str(missing) and gateway.http.get("/health").status_code == 200
    finally:
        mend()
    _turns(gateway, True)


def test_a_full_disk_takes_no_job(gateway: Served, engine: FakeEngine) -> None:
    mend, posts = _full(engine, gateway), len(engine.posts)
    answer = gateway.post("paint", prompt="x")
    mend()
    assert answer.status_code == 507 and answer.json()["code"] == "disk_full" and len(engine.posts) == posts


def test_the_loras_of_the_engines_are_listed(gateway: Served) -> None:
    loras = gateway.http.get("/loras").json()["loras"]
    assert [each["id"] for each in loras] == ["7"]


def test_metrics_tell_jobs_and_engines(gateway: Served) -> None:
    gateway.post("paint", prompt="x")
    text = gateway.http.get("/metrics").text
    assert 'ryla_jobs_total{outcome="succeeded",workflow="paint"} ' in text
    assert "ryla_ready 1.0" in text and 'ryla_engine_up{engine="0"} 1.0' in text
    assert 'ryla_execution_seconds_count{workflow="paint"}' in text


def test_two_engines_one_is_enough(tmp_path: Path) -> None:
    with FakeEngine(make=jpeg, seconds=0.02) as good, FakeEngine() as bad:
        bad.kill()
        with served(options_of(tmp_path, good.url, bad.url)) as gateway:
            until(lambda: gateway.http.get("/ready").status_code == 200)
            told = gateway.http.get("/ready").json()
            assert [engine["up"] for engine in told["engines"]] == [True, False]
            assert all(gateway.post("paint", prompt="x").status_code == 200 for _ in range(4))


def test_a_warm_up_comes_before_ready(tmp_path: Path) -> None:
    with (
        FakeEngine(make=jpeg, seconds=3.0) as engine,
        served(options_of(tmp_path, engine.url, warm_up=("paint",), workflows=("paint",))) as gateway,
    ):
        until(lambda: bool(engine.running))
        time.sleep(0.5)
        assert [each["what"] for each in _missing(gateway)] == ["warm_up"]
        until(lambda: gateway.http.get("/ready").status_code == 200)
        assert len(engine.executions) == 1
