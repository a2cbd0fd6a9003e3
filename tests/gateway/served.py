"""A gateway in a thread of this process, served over loopback, before fake or real engines.

``RYLA_TEST_POSTGRES``, the URL of a Postgres database, has its jobs kept on that server instead of in SQLite.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.gateway.app import Gateway
from ryla_nodes.gateway.backend import Backend
from ryla_nodes.gateway.options import Limits, Options
from ryla_nodes.gateway.server import Server, listen

MANIFEST = """
title = "Paint"
summary = "A workflow for the fake engine."
models = []
[[outputs]]
node = "Result"
kind = "image"
[parameters.prompt]
type = "text"
node = "Paint"
input = "text"
required = true
help = "What to paint."
[parameters.width]
type = "int"
node = "Paint"
input = "width"
default = 64
min = 64
max = 256
step = 16
help = "Pixels."
[parameters.guidance]
type = "float"
node = "Paint"
input = "guidance"
default = 3.5
min = 0.0
max = 10.0
aliases = ["guidance_scale"]
help = "How closely."
[parameters.sampler]
type = "enum"
node = "Paint"
input = "sampler"
default = "euler"
choices = ["euler", "heun"]
help = "Which."
[parameters.fast]
type = "bool"
node = "Paint"
input = "fast"
default = false
help = "Hurry."
[parameters.seed]
type = "seed"
node = "Paint"
input = "seed"
help = "The seed."
"""
IMAGE = """
[parameters.reference_image]
type = "image"
node = "Photo"
input = "image"
required = true
help = "The photo."
"""


def add_workflows(root: Path) -> Path:
    """``paint``, and ``portrait`` with a reference photo, for the fake engine."""
    paint = {"seed": 0, "text": "", "width": 64, "guidance": 1.0, "sampler": "euler", "fast": False}
    nodes: dict[str, Any] = {
        "1": {"class_type": "FakePaint", "inputs": paint, "_meta": {"title": "Paint"}},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "p"},
            "_meta": {"title": "Result"},
        },
    }
    _add(root / "paint", MANIFEST, nodes)
    photo = {"class_type": "LoadImage", "inputs": {"image": "photo.png"}, "_meta": {"title": "Photo"}}
    also = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}, "_meta": {"title": "Shown"}}
    _add(root / "portrait", MANIFEST + IMAGE, {**nodes, "3": photo, "4": also})
    return root


def _add(folder: Path, manifest: str, nodes: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "workflow.toml").write_text(manifest, encoding="utf-8")
    (folder / "api.json").write_text(json.dumps(nodes), encoding="utf-8")


def photo(size: tuple[int, int] = (32, 24), kind: str = "PNG") -> bytes:
    """A small picture."""
    out = BytesIO()
    Image.new("RGB", size, (90, 120, 200)).save(out, kind)
    return out.getvalue()


class Served:
    """A running gateway; ``http`` speaks to it."""

    def __init__(self, options: Options, backend: Callable[[], Backend] | None = None) -> None:
        self.options, self._backend = options, backend
        self._listening = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=60.0)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def start(self) -> Served:
        self._thread.start()
        assert self._started.wait(30), "the gateway did not start"
        return self

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.gateway = Gateway(self.options, backend=self._backend() if self._backend else None)
        self.server = Server(self.gateway, self._listening, 5.0)
        watcher = asyncio.ensure_future(self._when_started())
        with contextlib.suppress(asyncio.CancelledError):
            await self.server.serve([self._listening])
        watcher.cancel()
        self._started.set()

    async def _when_started(self) -> None:
        while not self.server.started:
            await asyncio.sleep(0.01)
        self._started.set()

    def stop(self) -> None:
        """As a signal does, without the drain."""
        self.http.close()
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the gateway's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def post(self, workflow: str, /, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return self.http.post(f"/{workflow}", json=fields, headers=headers)


def options_of(root: Path, *servers: str, workflows: tuple[str, ...] = ("paint", "portrait"), **more: Any) -> Options:
    """Options for a gateway whose state is in ``root``; a key of ``Limits`` goes there."""
    folder = root / "workflows"
    if not folder.exists():
        add_workflows(folder)
    environment = {"RYLA_WORKFLOWS": str(folder), "RYLA_HOME": str(root / "home")}
    limits = {name: more.pop(name) for name in list(more) if name in Limits.__dataclass_fields__}
    variables = {name: more.pop(name) for name in list(more) if name.startswith("RYLA_")}
    if postgres := os.environ.get("RYLA_TEST_POSTGRES"):  # A database for each test: a key of one is another's, too.
        digest = hashlib.sha256(str(root).encode()).hexdigest()[:12]
        variables.setdefault("RYLA_JOBS_URL", f"{postgres.rpartition('/')[0]}/jobs_{digest}")
    return Options(
        settings=settings.load({**environment, **variables}),
        state=root / "state",
        servers=servers,
        workflows=workflows,
        limits=replace(Limits(timeout=30.0, engine_wait=5.0, free_bytes=1), **limits),
        **more,
    )


@contextlib.contextmanager
def served(options: Options) -> Iterator[Served]:
    """A gateway for a block."""
    gateway = Served(options).start()
    try:
        yield gateway
    finally:
        gateway.stop()


def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until ``condition()`` holds."""
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)
