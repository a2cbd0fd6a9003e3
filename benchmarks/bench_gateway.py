"""What the gateway costs: its processor time a job beside the engine's, the latency that it adds, 200 clients at once.

Everything runs on this machine: the gateway, the embedded engine, and the clients in this process. Figures of a machine
that does something else at the time say nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

MAIN = "from ryla_nodes.cli.app import main; main()"
MANIFEST = """
title = "Trivial"
summary = "A plain picture: the engine has next to nothing to do."
models = []
[[outputs]]
node = "Result"
kind = "image"
[parameters.prefix]
type = "string"
node = "Result"
input = "filename_prefix"
default = "bench"
help = "Start of the file's name; another one makes the engine run again."
"""
GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255},
        "_meta": {"title": "Canvas"},
    },
    "2": {
        "class_type": "RYLA_SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "x", "format": "jpeg", "quality": 90, "metadata": False},
        "_meta": {"title": "Result"},
    },
}


def cpu(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(*arguments: str, environment: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A command of ryla that serves, and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments, "--json", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["url"]


def until_ready(url: str) -> None:
    """Wait until a gateway can serve jobs."""
    while True:
        try:
            if httpx.get(f"{url}/ready", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)


async def one_after_another(url: str, engine: str, count: int) -> None:
    """Latency of a job through the gateway, beside that of the same job at the engine."""
    from ryla_nodes.client import AsyncClient, from_graph

    direct, through, own = [], [], []
    async with AsyncClient(engine) as client, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
        for number in range(count):
            graph: Any = json.loads(json.dumps(GRAPH))
            graph["2"]["inputs"]["filename_prefix"] = f"direct-{number}"
            began = time.perf_counter()
            await client.run(from_graph(graph, ["2"]))
            direct.append(time.perf_counter() - began)
            began = time.perf_counter()
            answer = await http.post("/trivial", json={"prefix": f"through-{number}"})
            through.append(time.perf_counter() - began)
            answer.raise_for_status()
            own.append(float(answer.headers["x-execution-time-sec"]))
    told = {"client alone": direct, "through the gateway": through, "of that on the engine": own}
    for name, seconds in told.items():
        ordered = sorted(1000 * each for each in seconds)
        print(f"{name:24} p50 {ordered[len(ordered) // 2]:7.1f} ms   p95 {ordered[int(len(ordered) * 0.95)]:7.1f} ms")
    added = [1000 * (a - b) for a, b in zip(through, direct, strict=True)]
    print(f"{'added by the gateway':24} p50 {statistics.median(added):7.1f} ms")


WATCH = """
import http.client, json, sys, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
connection, taken, stop = http.client.HTTPConnection(host, port), [], time.monotonic() + seconds
while time.monotonic() < stop:
    began = time.perf_counter()
    connection.request("GET", "/health")
    connection.getresponse().read()
    taken.append(time.perf_counter() - began)
    time.sleep(0.02)
print(json.dumps(sorted(taken)))
"""


async def all_at_once(url: str, clients: int, seconds: float) -> tuple[int, list[float]]:
    """How many jobs ``clients`` get done, and how long /health took meanwhile, seen from another process."""
    done, stop = 0, time.monotonic() + seconds
    host, port = url.removeprefix("http://").split(":")
    watch = subprocess.Popen([sys.executable, "-c", WATCH, host, port, str(seconds)], stdout=subprocess.PIPE, text=True)
    limits = httpx.Limits(max_connections=None)

    async def client(number: int, http: httpx.AsyncClient) -> None:
        nonlocal done
        turn = 0
        while time.monotonic() < stop:
            turn += 1
            answer = await http.post("/trivial", json={"prefix": f"c{number}-{turn}"})
            assert answer.status_code == 200, answer.text
            done += 1

    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120, limits=limits) as http:
        await asyncio.gather(*(client(number, http) for number in range(clients)))
    return done, json.loads(watch.communicate()[0])


async def measure(options: argparse.Namespace, url: str, engine: str, pids: tuple[int, int]) -> None:
    """Print all."""
    await one_after_another(url, engine, 20)
    print("--- measured from here")
    before = [cpu(pid) for pid in pids]
    await one_after_another(url, engine, options.count)
    after = [cpu(pid) for pid in pids]
    jobs = options.count
    print(f"processor a job: gateway {1000 * (after[0] - before[0]) / jobs:.1f} ms, "
          f"engine (two jobs) {1000 * (after[1] - before[1]) / jobs:.1f} ms")  # fmt: skip
    before = [cpu(pid) for pid in pids]
    done, health = await all_at_once(url, options.clients, options.seconds)
    after = [cpu(pid) for pid in pids]
    rate = done / options.seconds
    print(f"{options.clients} clients, {options.seconds:.0f} s: {done} jobs, {rate:.1f} a second, none lost")
    print(f"processor a job: gateway {1000 * (after[0] - before[0]) / done:.1f} ms, "
          f"engine {1000 * (after[1] - before[1]) / done:.1f} ms")  # fmt: skip
    p50, p99 = health[len(health) // 2], health[int(len(health) * 0.99)]
    print(f"/health meanwhile: p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms of {len(health)}")


def main() -> None:
    """Start an engine and a gateway before it, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="jobs one after another")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "w" / "trivial").mkdir(parents=True)
        (root / "w" / "trivial" / "workflow.toml").write_text(MANIFEST, encoding="utf-8")
        (root / "w" / "trivial" / "api.json").write_text(json.dumps(GRAPH), encoding="utf-8")
        environment = {"RYLA_WORKFLOWS": str(root / "w"), "RYLA_HOME": str(root / "home"), "OMP_NUM_THREADS": "1"}
        engine, engine_url = start("engine", environment=environment)
        serve = ("serve", "--server", engine_url, "--workflow", "trivial", "--state", str(root / "state"))
        gateway, url = start(*serve, environment=environment)
        try:
            until_ready(url)
            asyncio.run(measure(options, url, engine_url, (gateway.pid, engine.pid)))
        finally:
            for process in (gateway, engine):
                process.terminate()
                process.wait(60)


if __name__ == "__main__":
    main()
