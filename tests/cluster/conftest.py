"""A Ray cluster of two nodes on this machine, and gateways before it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway.served import Served, options_of

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ryla-nodes[ray]'")

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """The cluster; its processes find the tests' modules, and no GPU."""
    import ray
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_DISABLE_DASHBOARD="1",
        RAY_SERVE_ENABLE_TASK_EVENTS="0",
        PYTHONPATH=os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=4)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)


class World:
    """Where the engines of a test write what they do, and are told what to do wrong."""

    def __init__(self, root: Path, address: str) -> None:
        self.root, self.address = root, address
        self.folder = root / "engines"
        self.folder.mkdir(exist_ok=True)

    def say(self, name: str, text: str) -> None:
        part = self.folder / f"{name}.part"
        part.write_text(text)
        part.replace(self.folder / name)  # An engine that reads meanwhile finds all of it.

    def starts(self) -> list[tuple[str, int, str]]:
        """Prompt id, process and LoRA of each job that an engine began."""
        path = self.folder / "starts"
        lines = path.read_text().splitlines() if path.exists() else []
        parts = [line.split(" ") for line in lines]
        return [(prompt, int(pid), lora) for prompt, pid, lora in parts]

    def engines(self, **more: Any) -> Any:
        """Options of a deployment of fake engines."""
        from ryla_nodes.gateway.cluster.options import EngineOptions

        command = (sys.executable, str(TESTS / "cluster" / "engine.py"), "{port}", str(self.folder))
        return EngineOptions(**{"kind": "command", "command": command, "cpus": 1, "drain_seconds": 2.0, **more})

    @contextlib.contextmanager
    def gateway(self, engines: Any, **more: Any) -> Iterator[Served]:
        """A gateway that deploys ``engines``; None takes what is there."""
        from ryla_nodes.gateway.cluster.backend import cluster

        options = options_of(self.root, **{"timeout": 60.0, **more})
        served = Served(options, lambda: cluster(options, self.address, engines)).start()
        try:
            yield served
        finally:
            served.stop()


@pytest.fixture
def world(nodes: Any, tmp_path: Path) -> Iterator[World]:
    """One for each test, whose engines end with it."""
    from ray import serve
    from ray.serve.exceptions import RayServeException
    from ryla_nodes.gateway.cluster.options import APPLICATION

    yield World(tmp_path, nodes.address)
    with contextlib.suppress(RayServeException):
        serve.delete(APPLICATION)
