"""The worker of the fake engine: takes jobs from the queue, talks over the websocket, writes the history."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from ryla_nodes.errors import RylaError
from unit.fake_engine_parts import jpeg


@dataclass
class Job:
    """One prompt in the engine."""

    number: float
    prompt_id: str
    graph: dict[str, Any]
    client_id: str
    outputs: list[str]
    extra: dict[str, Any] = field(default_factory=dict)
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)

    def item(self) -> list[Any]:
        return [self.number, self.prompt_id, self.graph, {**self.extra, "client_id": self.client_id}, self.outputs]


class Worker:
    """State and worker of a ``FakeEngine``, without its HTTP side."""

    faults: set[str]
    seconds: float
    make: Any
    executions: list[str]
    started: list[str]
    graphs: list[dict[str, Any]]
    sockets: dict[str, web.WebSocketResponse]
    on_execute: Callable[[], object] = staticmethod(lambda: None)

    def forget(self) -> None:
        """Start with an empty memory."""
        self.pending: list[Job] = []
        self.running: list[Job] = []
        self.history: dict[str, Any] = {}
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.sockets = {}
        self.worker_dead = False

    # --- the worker ---------------------------------------------------------------------------------------------------

    def _put(self, job: Job) -> None:
        self.pending.append(job)
        self._arrived.set()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self.pending and "dead worker" not in self.faults and not self.worker_dead:
                job = self.pending.pop(0)
                self.running.append(job)
                await self._send("status", {"status": self._queue_info()}, None)
                await self._execute(job)

    async def _execute(self, job: Job) -> None:
        if "worker dies" in self.faults:
            self.worker_dead = True
            return
        mine = {"prompt_id": job.prompt_id}
        self.started.append(job.prompt_id)
        if "die" in self.faults and job.client_id != "other":
            self.running.remove(job)
            self._reset_sockets()
            return
        talk = _Talk(self, job)
        messages = [("execution_start", mine | {"timestamp": int(time.time() * 1000)})]
        await talk.say("execution_start", mine)
        cached = list(job.graph) if "cached" in self.faults else []
        messages.append(("execution_cached", mine | {"nodes": cached}))
        await talk.say("execution_cached", mine | {"nodes": cached})
        if "foreign events" in self.faults:
            await self._send("execution_success", {"prompt_id": "somebody else's"}, None)
            await self._send("executing", {"node": None, "prompt_id": "somebody else's"}, None)
            await self._send("crystools.monitor", {"cpu": 3}, None)
        failed = await self._run_nodes(job, talk)
        outputs: dict[str, Any] = {}
        self.on_execute()
        if failed is None:
            outputs = self._outputs(job, bool(cached))
            self.executions.append(job.prompt_id)
            self.graphs.append(job.graph)
        ending = failed or ("execution_success", mine)
        messages.append((ending[0], ending[1] | {"timestamp": int(time.time() * 1000)}))
        await talk.end(ending, messages, outputs)

    async def _run_nodes(self, job: Job, talk: _Talk) -> tuple[str, dict[str, Any]] | None:
        """Take the job's time; how it failed, or None."""
        mine = {"prompt_id": job.prompt_id}
        node = next(iter(job.graph))
        where = mine | {"node_id": node, "node_type": job.graph[node]["class_type"], "executed": []}
        if "instant" not in self.faults:
            await talk.say("executing", mine | {"node": node})
        seconds = job.graph[node]["inputs"].get("seconds", self.seconds)
        for step in range(4):
            await talk.step(step)
            await talk.say("progress", mine | {"node": node, "value": step + 1, "max": 4})
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(job.interrupted.wait(), max(0.0, seconds / 4))
            if job.interrupted.is_set():
                return "execution_interrupted", where
        secret = {"current_inputs": {"api_key": ["sk-secret"]}, "traceback": ["File x"]}
        if "node error" in self.faults:
            cause = {"exception_type": "ValueError", "exception_message": "mat1 and mat2 do not fit\nmore\n"}
            return "execution_error", where | cause | secret
        if "our error" in self.faults:
            message = str(RylaError("no_face", "No face in photo.png."))
            cause = {"exception_type": "custom_nodes.ryla.errors.RylaError", "exception_message": f"{message}\n"}
            return "execution_error", where | cause | secret
        if "oom" in self.faults or ("oom once" in self.faults and self.first("oom")):
            cause = {"exception_type": "torch.OutOfMemoryError", "exception_message": "Allocation on device 0\nTIPS: x"}
            return "execution_error", where | cause | secret
        return None

    def _outputs(self, job: Job, cached: bool) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        for node in job.outputs:
            if "no output" in self.faults:
                continue
            prefix = str(job.graph[node]["inputs"].get("filename_prefix", "x"))
            folder = "temp" if job.graph[node]["class_type"] == "PreviewImage" else "output"
            name = f"{prefix}_{node}.png" if cached else f"{prefix}_{job.prompt_id[:8]}_{node}.png"
            outputs[node] = {"images": [{"filename": name, "subfolder": "sub dir", "type": folder}], "note": ["x"]}
            outputs[node]["images"] *= 2 if "two pictures" in self.faults else 1
            if "gone output" not in self.faults or not self.first("gone output"):
                self.files[name, "sub dir", folder] = self.make(job.prompt_id)
        return outputs

    def record(self, job: Job, outputs: dict[str, Any], messages: list[Any], ok: bool) -> None:
        """Move a job from running to history, in one step."""
        status: Any = {"status_str": "success" if ok else "error", "completed": ok, "messages": messages}
        if "null status" in self.faults:
            status = None
        if job in self.running:
            self.running.remove(job)
        self.history[job.prompt_id] = {"prompt": copy.copy(job.item()), "outputs": outputs, "status": status}


class _Talk:
    """What one job says over the websocket, and what goes wrong with that."""

    def __init__(self, engine: Worker, job: Job) -> None:
        self._engine, self._job = engine, job
        self._silent = False

    async def say(self, kind: str, data: dict[str, Any]) -> None:
        if not self._silent:
            await self._engine._send(kind, data, self._job.client_id)

    async def step(self, step: int) -> None:
        engine, faults = self._engine, self._engine.faults
        socket = engine.sockets.get(self._job.client_id)
        if "wsstall" in faults and step == 1:
            self._silent = True
        if "wsdrop" in faults and step == 1:
            engine._reset_sockets()
        if socket is not None and "preview" in faults:
            await socket.send_bytes(b"\x00\x00\x00\x01\x00\x00\x00\x01" + jpeg("preview"))
        if socket is not None and "preview with metadata" in faults:
            told = json.dumps({"image_type": "image/jpeg", "prompt_id": self._job.prompt_id, "node_id": "1"}).encode()
            head = (4).to_bytes(4, "big") + len(told).to_bytes(4, "big")
            await socket.send_bytes(head + told + jpeg("preview"))
        if socket is not None and "bigframe" in faults and step == 1:
            await socket.send_str(json.dumps({"type": "executed", "data": {"x": "y" * (5 * 2**20)}}))
        if socket is not None and "junk frames" in faults:
            for frame in ("", "[]", "{", '{"type": 3}', '{"type": "progress", "data": [1]}'):
                await socket.send_str(frame)

    async def end(self, ending: tuple[str, dict[str, Any]], messages: list[Any], outputs: dict[str, Any]) -> None:
        engine, job = self._engine, self._job
        if "wsdropend" in engine.faults:
            engine._reset_sockets()
        await self.say(*ending)
        if "histrace" in engine.faults:
            await asyncio.sleep(1.0)
        engine.record(job, outputs, messages, ending[0] == "execution_success")
        await engine._send("status", {"status": engine._queue_info()}, None)
        await self.say("executing", {"node": None, "prompt_id": job.prompt_id})
