"""A Ray cluster of engines on this machine: throughput by replicas, a node killed, from zero and back, latency.

The engines are embedded ones on a graph that waits: what is measured is what lies between a client and an engine. Every
part runs on ``ray.cluster_utils.Cluster``: several nodes, each with processes of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

MAIN = "from ryla_nodes.cli.app import main; main()"
HERE = Path(__file__).resolve().parent
MANIFEST = """
title = "Wait"
summary = "A picture after a while."
models = []
[[outputs]]
node = "Result"
kind = "image"
[parameters.seconds]
type = "float"
node = "Wait"
input = "seconds"
default = 1.0
min = 0.0
max = 60.0
help = "How long."
[parameters.tag]
type = "string"
node = "Wait"
input = "tag"
default = ""
help = "A name of its own makes it run."
"""
GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255},
        "_meta": {"title": "Canvas"},
    },
    "2": {
        "class_type": "BenchWait",
        "inputs": {"image": ["1", 0], "seconds": 1.0, "tag": ""},
        "_meta": {"title": "Wait"},
    },
    "3": {
        "class_type": "RYLA_SaveImage",
        "inputs": {"images": ["2", 0], "filename_prefix": "x", "format": "jpeg", "quality": 90, "metadata": False},
        "_meta": {"title": "Result"},
    },
}


class Bench:
    """A cluster, and what runs on it."""

    def __init__(self, root: Path) -> None:
        from ray.cluster_utils import Cluster

        self.root, self.log = root, root / "log"
        (root / "w" / "wait").mkdir(parents=True)
        (root / "w" / "wait" / "workflow.toml").write_text(MANIFEST, encoding="utf-8")
        (root / "w" / "wait" / "api.json").write_text(json.dumps(GRAPH), encoding="utf-8")
        os.environ.update(
            RYLA_WORKFLOWS=str(root / "w"),
            RYLA_HOME=str(root / "home"),
            OMP_NUM_THREADS="1",
            RAY_USAGE_STATS_ENABLED="0",
        )
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.count = 0

    def engines(self, low: int, high: int, **more: Any) -> Any:
        """Options of a deployment of waiting engines."""
        from ryla_nodes.gateway.cluster.options import EngineOptions

        command = (sys.executable, str(HERE / "waiting_engine.py"), "{port}", "{folder}", str(self.log))
        return EngineOptions(
            kind="command", command=command, min_replicas=low, max_replicas=high, drain_seconds=5.0, **more
        )

    @contextlib.contextmanager
    def gateway(self, engines: Any) -> Iterator[str]:
        """A gateway before these engines, and its URL."""
        from ray import serve
        from ryla_nodes.gateway.cluster.connection import Cluster
        from ryla_nodes.gateway.cluster.options import APPLICATION

        Cluster.connect(self.cluster.address, engines)
        self.count += 1
        with serving("--ray", self.cluster.address, "--queue", "2000", state=self.root / f"state{self.count}") as url:
            wanted = engines.min_replicas
            until(lambda: replicas(url) >= wanted and httpx.get(f"{url}/ready", trust_env=False).status_code == 200)
            yield url
        serve.delete(APPLICATION)


@contextlib.contextmanager
def serving(*arguments: str, state: Path, workflow: str = "wait") -> Iterator[str]:
    """``ryla serve``, and its URL."""
    command = [
        sys.executable,
        "-c",
        MAIN,
        "serve",
        "--json",
        "--port",
        "0",
        "--workflow",
        workflow,
        "--timeout",
        "3600",
    ]
    with (state.parent / f"{state.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--state", str(state), *arguments], stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(90)


def replicas(url: str) -> int:
    """How many run, as the gateway sees it."""
    with contextlib.suppress(httpx.HTTPError):
        return int(httpx.get(f"{url}/ready", trust_env=False, timeout=20).json()["engines"][0].get("replicas", -1))
    return -1


def until(condition: Any, seconds: float = 400.0) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit("It did not come to pass.")
        time.sleep(0.5)


async def jobs(url: str, tags: list[str], seconds: float) -> float:
    """Run all of them at once; the seconds from the first acceptance to the last end."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=3600, limits=limits) as http:
        began = time.perf_counter()
        answers = await asyncio.gather(*(http.post("/wait", json={"seconds": seconds, "tag": tag}) for tag in tags))
        taken = time.perf_counter() - began
    for answer in answers:
        answer.raise_for_status()
    return taken


def throughput(bench: Bench, options: argparse.Namespace) -> None:
    """Pictures a second on 1, 2, 4 and 8 replicas."""
    for _ in range(2):
        bench.cluster.add_node(num_cpus=4)
    alone = 0.0
    for count in options.replicas:
        with bench.gateway(bench.engines(count, count)) as url:
            asyncio.run(jobs(url, [f"warm-{count}-{number}" for number in range(2 * count)], 0.1))
            tags = [f"rate-{count}-{number}" for number in range(options.rounds * count)]
            rate = len(tags) / asyncio.run(jobs(url, tags, options.seconds))
        alone = alone or rate / count
        print(f"{count} replicas: {rate:6.3f} jobs a second of {options.seconds:g} s each, "
              f"{rate / alone / count:.3f} x {count} x one; {rate * options.seconds / count:.3f} of engines that never "
              "wait", flush=True)  # fmt: skip


def killed(bench: Bench, options: argparse.Namespace) -> None:
    """Many jobs while a node is killed and another one added."""
    nodes = [bench.cluster.add_node(num_cpus=4) for _ in range(2)]
    with bench.gateway(bench.engines(6, 6)) as url:
        bench.log.write_text("")
        tags = [f"kill-{number}" for number in range(options.jobs)]

        async def all_of_it() -> float:
            work = asyncio.ensure_future(jobs(url, tags, options.short))
            await asyncio.sleep(15.0)
            print("a node is killed", flush=True)
            await asyncio.to_thread(bench.cluster.remove_node, nodes[-1], False)
            await asyncio.sleep(10.0)
            print("another one is added", flush=True)
            bench.cluster.add_node(num_cpus=4)  # Ray wants the main thread for it.
            return await work

        taken = asyncio.run(all_of_it())
        lines = Counter(bench.log.read_text().splitlines())
    begun = [lines[f"begin {tag}"] for tag in tags]
    ended = [lines[f"end {tag}"] for tag in tags]
    print(f"{len(tags)} jobs of {options.short:g} s in {taken:.0f} s, a node of two lost: all succeeded; "
          f"{ended.count(1)} ended once on an engine, {sum(count > 1 for count in ended)} twice; "
          f"{sum(count > 1 for count in begun)} were begun again after the node had gone", flush=True)  # fmt: skip


def zero(bench: Bench, options: argparse.Namespace) -> None:
    """A burst on no replica at all, and how long the replicas stay."""
    bench.cluster.add_node(num_cpus=4)
    with bench.gateway(bench.engines(0, 4, idle_seconds=10.0)) as url:
        assert replicas(url) == 0
        began = time.perf_counter()

        async def burst() -> tuple[float, float]:
            first = asyncio.ensure_future(jobs(url, ["zero-first"], 0.1))
            rest = asyncio.ensure_future(jobs(url, [f"zero-{number}" for number in range(options.burst)], 0.1))
            await first
            return time.perf_counter() - began, await rest

        first, rest = asyncio.run(burst())
        most = replicas(url)
        idle = time.perf_counter()
        until(lambda: replicas(url) == 0)
        gone = time.perf_counter() - idle
        print(f"a burst of {options.burst} jobs on no replica: the first picture after {first:.1f} s, all after "
              f"{rest:.1f} s on {most} replicas; none {gone:.0f} s later", flush=True)  # fmt: skip


def latency(bench: Bench, options: argparse.Namespace) -> None:
    """A job through the gateway to an engine at its address, and to one behind Serve, by turns."""
    bench.cluster.add_node(num_cpus=2)
    port = "18477"
    engine = subprocess.Popen([sys.executable, str(HERE / "waiting_engine.py"), port, str(bench.root / "plain")])
    plain: list[float] = []
    behind: list[float] = []
    try:
        until(lambda: _answers(f"http://127.0.0.1:{port}/system_stats"))
        with (
            serving("--server", f"http://127.0.0.1:{port}", state=bench.root / "plain-state") as direct,
            bench.gateway(bench.engines(1, 1)) as through,
            httpx.Client(trust_env=False, timeout=60) as http,
        ):
            for number in range(options.count + 10):
                for url, taken in ((direct, plain), (through, behind)):
                    began = time.perf_counter()
                    tag = f"latency-{len(taken)}-{url}"
                    http.post(f"{url}/wait", json={"seconds": 0.0, "tag": tag}).raise_for_status()
                    if number >= 10:
                        taken.append(1000 * (time.perf_counter() - began))
    finally:
        engine.terminate()
        engine.wait(30)
    for name, taken in (("an engine at its address", plain), ("an engine behind Serve", behind)):
        ordered = sorted(taken)
        print(f"{name:26} p50 {statistics.median(taken):6.1f} ms   p95 {ordered[int(len(taken) * 0.95)]:6.1f} ms")
    added = [b - a for a, b in zip(plain, behind, strict=True)]
    print(f"{'added by Serve':26} p50 {statistics.median(behind) - statistics.median(plain):6.1f} ms "
          f"(of the pairs {statistics.median(added):.1f} ms)", flush=True)  # fmt: skip


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False).status_code == 200
    return False


PARTS = {"throughput": throughput, "killed": killed, "zero": zero, "latency": latency}


def main() -> None:
    """Run the parts, each on a cluster of its own."""
    import ray

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=4.0, help="what a job of the throughput takes")
    parser.add_argument("--rounds", type=int, default=8, help="jobs for each replica")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs while a node is killed")
    parser.add_argument("--short", type=float, default=0.5, help="what each of them takes")
    parser.add_argument("--burst", type=int, default=500)
    parser.add_argument("--count", type=int, default=100, help="jobs one after another, for the latency")
    options = parser.parse_args()
    for part in options.parts:
        print(f"== {part}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder))
            try:
                PARTS[part](bench, options)
            finally:
                ray.shutdown()
                bench.cluster.shutdown()


if __name__ == "__main__":
    main()
