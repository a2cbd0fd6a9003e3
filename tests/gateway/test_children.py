"""Engines that the gateway starts: watched, started again, taken over, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from gateway.served import options_of
from ryla_nodes.gateway.app import Gateway
from ryla_nodes.gateway.children import Children, ChildSpec

ENGINE = """
import sys
from unit.fake_engine import FakeEngine
print("The engine begins.", flush=True)
engine = FakeEngine(port=int(sys.argv[1]))
engine.start()
print("To see the GUI go to nowhere", flush=True)
engine._thread.join()
"""
TESTS = str(Path(__file__).parents[1])


def _spec(tmp_path: Path, code: str = ENGINE, **more: float) -> ChildSpec:
    environment = {"PYTHONPATH": os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])}
    return ChildSpec("one", (sys.executable, "-c", code, "{port}"), tmp_path, environment, **more)


async def _answers(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            return (await http.get(f"{url}/system_stats")).status_code == 200
        except httpx.HTTPError:
            return False


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def test_a_child_that_dies_is_started_again_at_its_port_and_its_log_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        children = Children([_spec(tmp_path)], tmp_path / "state")
        child = children.children[0]
        children.start()
        try:
            await _until(lambda: _answers(child.url))
            first = child._pid
            os.kill(first, signal.SIGKILL)

            async def troubled() -> bool:
                return child.trouble is not None

            await _until(troubled)
            trouble = children.trouble(child.url)
            assert trouble is not None and trouble.code == "comfyui_crashed"
            assert "killed by signal 9" in trouble.message and "To see the GUI" in trouble.message
            await _until(lambda: _answers(child.url))
            assert child._pid != first

            async def well() -> bool:
                return child.trouble is None

            await _until(well)
        finally:
            await children.stop()
        assert not child.alive and not await _answers(child.url)

    asyncio.run(run())


def test_the_next_gateway_takes_over_what_a_killed_one_left(tmp_path: Path) -> None:
    async def left() -> tuple[int, str]:
        children = Children([_spec(tmp_path)], tmp_path / "state")
        children.start()
        await _until(lambda: _answers(children.urls[0]))
        for watcher in children._watchers:
            watcher.cancel()
        return children.children[0]._pid, children.urls[0]

    async def taken() -> tuple[int, str]:
        children = Children([_spec(tmp_path)], tmp_path / "state")
        children.start()
        found = children.children[0]._pid, children.urls[0]
        await children.stop()
        return found

    before = asyncio.run(left())
    assert asyncio.run(taken()) == before
    assert not asyncio.run(_answers(before[1]))


def test_a_child_that_cannot_start_keeps_the_gateway_unready_and_says_why(tmp_path: Path) -> None:
    code = "raise SystemExit('CUDA error: no kernel image, see /opt/secret/place.txt')"

    async def run() -> None:
        gateway = Gateway(options_of(tmp_path), [_spec(tmp_path, code)])
        async with gateway.running():

            async def told() -> bool:
                return any("no kernel image" in lack.message for lack in gateway.readiness.lacks())

            await _until(told)
            assert "/opt/secret" not in str(gateway.readiness.told())

    asyncio.run(run())


def test_a_child_that_never_answers_is_ended_and_started_again(tmp_path: Path) -> None:
    code = "import time; print('loading', flush=True); time.sleep(100)"

    async def run() -> None:
        children = Children([_spec(tmp_path, code, ready_within=0.5)], tmp_path / "state")
        child = children.children[0]
        children.start()
        first = child._pid
        try:

            async def again() -> bool:
                return child._pid != first

            await _until(again)
        finally:
            await children.stop()
        assert not child.alive

    asyncio.run(run())


@pytest.mark.parametrize("record", ["", "{}", '{"pid": 1, "port": 1}', '{"pid": 999999999, "port": 0}'])
def test_a_stranger_s_process_is_not_taken_over(tmp_path: Path, record: str) -> None:
    (tmp_path / "one.json").write_text(record)
    children = Children([_spec(tmp_path)], tmp_path)
    assert not children.children[0].alive
