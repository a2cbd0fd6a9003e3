"""One ComfyUI for each GPU of a host, behind the gateway through Ray Serve: pictures a minute, and LoRA affinity.

    python benchmarks/gpu_ray.py --comfyui /path/to/ComfyUI --weights make --gpus 2

Full-size noise weights, or those of a folder, as in `gpu_flux.py`. First one replica, then as many as there are GPUs,
each with jobs enough to keep it busy. Then pictures of two characters, drawn by lot: to the replicas that had the
character before, and to any, by turns. `--cpu` tries it with small weights and no GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "tests"), str(REPO / "custom_nodes")]

import gpu_lora  # noqa: E402
import lora_files  # noqa: E402
from bench_ray import serving, until  # noqa: E402
from gpubench import Rows, add_picture, models_of, parser_of  # noqa: E402

PROMPT = "a lighthouse on a cliff at dusk, warm light in the window"


class Host:
    """A Ray node that has all GPUs of this host, and deployments of ComfyUIs on it."""

    def __init__(self, options: argparse.Namespace, models: Path) -> None:
        from ray.cluster_utils import Cluster

        paths = options.work / "pack.yaml"
        packs = f"ryla:\n  custom_nodes: {REPO / 'custom_nodes'}\n"
        if options.cpu:  # ComfyUI takes a small T5 only with a pack that tells it the shape.
            small = options.work / "packs" / "ryla_test_small_shapes"
            small.parent.mkdir(exist_ok=True)
            small.is_symlink() or small.symlink_to(REPO / "tests" / "comfyui" / "packs" / small.name)
            packs += f"small:\n  custom_nodes: {small.parent}\n"
        paths.write_text(packs, encoding="utf-8")
        os.environ.update(RYLA_VOLUME=str(models), RYLA_HOME=str(options.work / "home"), RAY_USAGE_STATS_ENABLED="0")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(REPO / "custom_nodes"), os.environ.get("PYTHONPATH", "")])
        self.options = options
        self.arguments = ("--extra-model-paths-config", str(paths), *options.engine_argument)
        self.arguments += ("--cpu",) if options.cpu else ()
        head = {"num_cpus": 4 * options.gpus, "num_gpus": 0 if options.cpu else options.gpus}
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})

    def connect(self, count: int) -> Any:
        """A handle of ``count`` replicas."""
        from ryla_nodes.gateway.cluster.connection import Cluster
        from ryla_nodes.gateway.cluster.options import EngineOptions

        engines = EngineOptions(
            kind="comfyui",
            comfyui=str(self.options.comfyui.resolve()),
            python=self.options.python,
            arguments=self.arguments,
            gpus=0.0 if self.options.cpu else 1.0,
            min_replicas=count,
            max_replicas=count,
            ready_within=900.0,
        )
        connected = Cluster.connect(self.cluster.address, engines)
        until(lambda: connected._status()[2] == count, 900.0)
        return connected


async def pictures(url: str, options: argparse.Namespace, count: int) -> float:
    """Seconds that so many pictures take, all asked for at once."""
    import httpx

    body = {"prompt": PROMPT, "width": options.size, "height": options.size, "steps": options.steps}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=3600, limits=limits) as http:
        began = time.perf_counter()
        for answer in await asyncio.gather(*(http.post("/flux-dev", json=body) for _ in range(count))):
            if answer.status_code != 200:
                sys.exit(f"a picture failed: {answer.text}")
        return time.perf_counter() - began


def throughput(host: Host, rows: Rows) -> None:
    """Pictures a minute on one replica, and on one for each GPU."""
    options, alone = host.options, 0.0
    for count in (1, options.gpus):
        host.connect(count)
        state = options.work / f"gateway-{count}-{time.monotonic_ns()}"
        with serving("--ray", host.cluster.address, "--queue", "1000", state=state, workflow="flux-dev") as url:
            asyncio.run(pictures(url, options, 2 * count))  # The first load the models.
            many = options.pictures * count
            rate = 60 * many / asyncio.run(pictures(url, options, many))
        alone = alone or rate
        rows.add({"row": "throughput", "replicas": count, "a_minute": round(rate, 2), "x_one": round(rate / alone, 3)})


async def characters(host: Host, options: argparse.Namespace, names: list[str]) -> tuple[float, int]:
    """Seconds of pictures of these characters, and how often a replica had to take another LoRA."""
    from ryla_nodes.gateway.cluster.client import RayClient
    from ryla_nodes.settings import load

    client = RayClient(await asyncio.to_thread(host.connect, options.gpus), load())
    fixed = {"prompt": PROMPT, "width": options.size, "height": options.size, "steps": options.steps}
    last: dict[str, str] = {}
    changes = 0
    waiting = asyncio.Semaphore(2 * options.gpus)

    async def one(name: str) -> None:
        nonlocal changes
        async with waiting:
            result = await client.run("flux-lora", {**fixed, "lora_id": name}, timeout=3600)
        changes += last.get(result.server) not in (None, name)
        last[result.server] = name

    began = time.perf_counter()
    await asyncio.gather(*(one(name) for name in names))
    return time.perf_counter() - began, changes


def affinity(host: Host, rows: Rows) -> None:
    """The same characters in the same order, with affinity and without, by turns."""
    from ryla_nodes.gateway.cluster import client

    options, chance = host.options, random.Random(3)
    names = chance.choices("ab", k=options.pictures * options.gpus)
    by_character = client.near
    for turn in ("warm", "near", "any", "any", "near"):
        client.near = (lambda prompt: "") if turn == "any" else by_character  # type: ignore[assignment]
        seconds, changes = asyncio.run(characters(host, options, names))
        rows.add(
            {"row": "affinity", "to": turn, "seconds": round(seconds, 2), "pictures": len(names), "changes": changes}
        )


def main() -> None:
    """Measure."""
    import ray

    parser = parser_of(__doc__)
    add_picture(parser)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=12, help="for each replica")
    parser.add_argument("--rows", nargs="+", default=["throughput", "affinity"])
    options = parser.parse_args()
    models = models_of(options)
    if "affinity" in options.rows and options.cpu:
        for name in "ab":
            lora_files.write(models / "loras" / f"{name}.safetensors", lora_files.kohya(lora_files.flux(256), std=0.02))
    elif "affinity" in options.rows:
        gpu_lora.write_loras(models / "loras")
    host, rows = Host(options, models), Rows("gpu_ray")
    try:
        for name in options.rows:
            {"throughput": throughput, "affinity": affinity}[name](host, rows)
        rows.show()
    finally:
        ray.shutdown()
        host.cluster.shutdown()


if __name__ == "__main__":
    main()
