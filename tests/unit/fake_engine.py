"""A fake engine that truly speaks ComfyUI's HTTP and websocket protocol, and misbehaves on demand.

It runs in a thread of its own on a free port of this machine. A graph "runs" for ``seconds`` and gives a small picture
that has the prompt id in it, so that a test can tell whose picture it got. ``faults`` names what goes wrong; it may be
changed at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import uuid
from collections.abc import Coroutine, Iterator
from typing import Any

from aiohttp import WSMsgType, web
from ryla_nodes.errors import RylaError
from unit.fake_engine_parts import OUTPUT_CLASSES, graph, node_class, node_error, png
from unit.fake_engine_worker import Job, Worker

__all__ = ["FakeEngine", "engines", "graph"]


class FakeEngine(Worker):
    """Start it with ``with``. Times are in seconds.

    Attributes:
        faults: what goes wrong; the names are those in the methods below.
        executions, started: the prompt ids that were run to their end, and those that were begun, in order.
        posts: the prompt ids of every POST /prompt that arrived.
        models: folder -> the files that the engine lists in it.
        requests: "METHOD path" of every request; ``authorizations`` of those with a login, ``logins`` what it was.
    """

    def __init__(
        self,
        *faults: str,
        seconds: float = 0.05,
        legacy: bool = False,
        port: int = 0,
        make: Any = png,
        settle: float = 0.0,
    ) -> None:
        self.faults = set(faults)
        self.seconds, self.legacy, self.make, self.settle = seconds, legacy, make, settle
        self.executions: list[str] = []
        self.started: list[str] = []
        self.graphs: list[dict[str, Any]] = []
        self.posts: list[str] = []
        self.requests: list[str] = []
        self.authorizations: set[str] = set()
        self.logins: set[str] = set()
        self.uploads: dict[str, bytes] = {}
        self.models = {"loras": ["anna.safetensors", "people\\ben.safetensors"]}
        self.freed = 0
        self.worker_dead = False
        self._port = port
        self._numbers = itertools.count()
        self._once: set[str] = set()
        self.forget()

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeEngine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen; after ``kill`` on the same port and with an empty memory, as a restarted engine does."""
        self.forget()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._await(self._serve())

    def kill(self) -> None:
        """Vanish at once: the port closes, every connection is reset."""
        if self.loop.is_closed():
            return
        self._await(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._middleware], client_max_size=2**26)
        app.add_routes([
            web.get("/system_stats", self._system_stats), web.get("/ws", self._ws),
            web.get("/prompt", self._get_prompt), web.post("/prompt", self._post_prompt),
            web.get("/queue", self._get_queue), web.post("/queue", self._post_queue),
            web.get("/history/{id}", self._get_history), web.post("/interrupt", self._interrupt),
            web.post("/free", self._free), web.get("/view", self._view),
            web.post("/upload/image", self._upload), web.get("/object_info/{name}", self._object_info),
            web.get("/object_info", self._every_object_info), web.get("/models/{folder}", self._models),
            web.get("/internal/logs/raw", self._logs),
        ])  # fmt: skip
        if not self.legacy:
            app.add_routes([web.post("/api/jobs/{id}/cancel", self._cancel)])
        self._arrived = asyncio.Event()
        self._runner = web.AppRunner(app, handler_cancellation=False, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self._worker = asyncio.ensure_future(self._work())

    async def _close(self) -> None:
        self._worker.cancel()
        for connection in list(self._runner.server.connections):  # type: ignore[union-attr]
            if connection.transport is not None:
                connection.transport.abort()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await self._runner.cleanup()

    def first(self, name: str) -> bool:
        """Whether ``name`` is asked about for the first time: for a fault that strikes once."""
        return name not in self._once and not self._once.add(name)  # type: ignore[func-returns-value]

    def drop_sockets(self) -> None:
        """Reset every websocket."""
        self.loop.call_soon_threadsafe(self._reset_sockets)

    def _reset_sockets(self) -> None:
        for socket in self.sockets.values():
            socket._req.transport.abort()  # type: ignore[union-attr]
        self.sockets.clear()

    def add_other(self, seconds: float) -> str:
        """Somebody else's job, at the end of the queue; it runs for ``seconds``."""
        nodes = {"1": {"class_type": "Wait", "inputs": {"seconds": seconds}}}
        job = Job(next(self._numbers), str(uuid.uuid4()), nodes, "other", [])
        self.loop.call_soon_threadsafe(self._put, job)
        return job.prompt_id

    def remove(self, prompt_id: str) -> None:
        """Somebody else takes a job out of the queue."""
        self.pending = [job for job in self.pending if job.prompt_id != prompt_id]

    def interrupt_now(self) -> None:
        """Somebody else presses the interrupt button."""
        self.loop.call_soon_threadsafe(lambda: [job.interrupted.set() for job in self.running])

    # --- requests ---------------------------------------------------------------------------------------------------

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if "Authorization" in request.headers:
            self.authorizations.add(f"{request.method} {request.path}")
            self.logins.add(request.headers["Authorization"])
        if "not comfyui" in self.faults:
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if "login" in self.faults:
            return web.Response(status=401)
        # As ComfyUI does for requests that a browser's page makes.
        origin = request.headers.get("Origin")
        if origin is not None and origin.split("://")[-1] != request.headers.get("Host"):
            return web.Response(status=403)
        return await handler(request)

    async def _system_stats(self, request: web.Request) -> web.Response:
        version = "0.3.64" if self.legacy else "0.33.0"
        return web.json_response({"system": {"comfyui_version": version}, "devices": [{"name": "fake", "type": "cpu"}]})

    async def _get_prompt(self, request: web.Request) -> web.Response:
        return web.json_response(self._queue_info())

    def _queue_info(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": len(self.pending) + len(self.running)}}

    async def _post_prompt(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt_id = body.get("prompt_id") or str(uuid.uuid4())
        if not self.legacy and str(uuid.UUID(prompt_id)) != prompt_id:
            return web.json_response({"error": {"type": "invalid_prompt_id", "message": "no"}}, status=400)
        self.posts.append(prompt_id)
        graph = body["prompt"]
        faults = {str(graph["3"]["inputs"]["filename_prefix"])} if "by prefix" in self.faults else self.faults
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        if "submit lost" in faults and self.first(f"lost {prompt_id}"):
            return self._reset(request)
        if "submit never answered, not taken" in faults and self.first(f"lost {prompt_id}"):
            await asyncio.sleep(30)
        if "submit late" in faults and self.first(f"late {prompt_id}"):
            await asyncio.sleep(self.settle)
        outputs = [key for key, node in graph.items() if node["class_type"] in OUTPUT_CLASSES]
        errors: dict[str, Any] = {}
        if "partial" in self.faults:
            errors = {outputs[0]: node_error("value_not_in_list", "Value not in list", "format: 'bmp'", outputs[:1])}
            outputs = outputs[1:]
        if "partial elsewhere" in self.faults:
            errors = {outputs[-1]: node_error("value_not_in_list", "Value not in list", "x", outputs[-1:])}
            outputs = outputs[:-1]
        extra = body.get("extra_data") or {}
        self._put(Job(next(self._numbers), prompt_id, graph, body.get("client_id", ""), outputs, extra))
        if "submit reset" in faults and self.first(f"reset {prompt_id}"):
            return self._reset(request)
        if "submit unanswered" in faults and self.first(f"unanswered {prompt_id}"):
            await asyncio.sleep(30)
        if "submit 502" in faults and self.first(f"502 {prompt_id}"):
            return web.Response(status=502, text="Bad Gateway")
        if "own ids" in self.faults:
            self.pending[-1].prompt_id = prompt_id = str(uuid.uuid4())
        return web.json_response({"prompt_id": prompt_id, "number": 1, "node_errors": errors})

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        graph = body["prompt"]
        name = next(iter(graph))
        if "invalid" in self.faults:
            error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            errors = {name: node_error("value_smaller_than_min", "Value 0 smaller than min of 1", "width", ["9"])}
            return web.json_response({"error": error, "node_errors": errors}, status=400)
        if "our check" in self.faults:
            error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            words = f"lora_id - {RylaError('lora_not_found', 'No LoRA anna.', hint='ryla loras list')}"
            errors = {name: node_error("custom_validation_failed", "Custom validation failed", words, ["9"])}
            return web.json_response({"error": error, "node_errors": errors}, status=400)
        if "missing model" in self.faults:
            error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            errors = {name: node_error("value_not_in_list", "Value not in list", "unet_name", ["9"])}
            errors[name]["errors"][0]["extra_info"] = {"received_value": "flux1-dev.safetensors"}
            return web.json_response({"error": error, "node_errors": errors}, status=400)
        if "missing node" in self.faults:
            error = {
                "type": "missing_node_type",
                "message": "Node 'Canvas' not found.",
                "details": f"Node ID '#{name}'",
            }
            if self.legacy:
                error |= {"type": "invalid_prompt", "message": "Cannot execute because node EmptyImage does not exist."}
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        for status in (403, 413, 429, 404):
            if f"http {status}" in self.faults:
                return web.Response(status=status, text="no", headers={"Retry-After": "7"})
        return web.Response(status=500, text="500 Internal Server Error") if "http 500" in self.faults else None

    @staticmethod
    def _reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _get_queue(self, request: web.Request) -> web.StreamResponse:
        if "queue reset once" in self.faults and self.first("queue reset"):
            return self._reset(request)
        pending = [job.item() for job in reversed(self.pending)]  # a heap's order is no promise
        return web.json_response({"queue_running": [job.item() for job in self.running], "queue_pending": pending})

    async def _post_queue(self, request: web.Request) -> web.Response:
        for prompt_id in (await request.json()).get("delete", []):
            found = next((job for job in self.pending if job.prompt_id == prompt_id), None)
            if found is not None:
                self.pending.remove(found)
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.StreamResponse:
        prompt_id = request.match_info["id"]
        body = {prompt_id: self.history[prompt_id]} if prompt_id in self.history else {}
        if "half history" in self.faults and body and self.first(f"half {prompt_id}"):
            return await self._cut_off(request, json.dumps(body).encode())
        if "no json once" in self.faults and body and self.first(f"html {prompt_id}"):
            return web.Response(text="<html>Please wait</html>", content_type="text/html")
        if "slow loris" in self.faults and body and self.first(f"loris {prompt_id}"):
            return await self._drip(request, json.dumps(body).encode())
        return web.json_response(body)

    async def _cut_off(self, request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        self._reset(request)
        return response

    async def _drip(self, request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for byte in data:
                await response.write(bytes([byte]))
                await asyncio.sleep(0.05)
        return response

    async def _interrupt(self, request: web.Request) -> web.Response:
        body = await request.json()
        for job in self.running:
            if body.get("prompt_id") in (None, job.prompt_id) and "deaf" not in self.faults:
                job.interrupted.set()
        return web.Response()

    async def _cancel(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        known = [job for job in (*self.pending, *self.running) if job.prompt_id == prompt_id]
        self.remove(prompt_id)
        for job in self.running:
            if job.prompt_id == prompt_id and "deaf" not in self.faults:
                job.interrupted.set()
        return web.json_response({"cancelled": bool(known)})

    async def _free(self, request: web.Request) -> web.Response:
        assert (await request.json())["unload_models"]
        self.freed += 1
        return web.Response()

    async def _view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        key = (query["filename"], query.get("subfolder", ""), query.get("type", "output"))
        if key not in self.files:
            return web.Response(status=404)
        data = self.files[key]
        if "half view once" in self.faults and self.first("half view"):
            return await self._cut_off(request, data)
        if "view html" in self.faults:
            return web.Response(text="<html>", content_type="text/html")
        if "view truncated" in self.faults:
            data = data[: len(data) // 2]
        return web.Response(body=data, content_type="image/png")

    async def _upload(self, request: web.Request) -> web.Response:
        if "upload 413" in self.faults:
            return web.Response(status=413)
        form = await request.post()
        image: Any = form["image"]
        name = f"{image.filename.rsplit('.', 1)[0]} (1).png" if "upload renames" in self.faults else image.filename
        self.uploads[f"{form['subfolder']}/{name}"] = image.file.read()
        return web.json_response({"name": name, "subfolder": form["subfolder"], "type": "input"})

    async def _object_info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if "no object_info" in self.faults or ("no SaveImage" in self.faults and name == "SaveImage"):
            return web.json_response({})
        return web.json_response({name: node_class(name)})

    async def _every_object_info(self, request: web.Request) -> web.Response:
        return web.json_response({name: node_class(name) for name in ("EmptyImage", "ImageInvert", "SaveImage")})

    async def _models(self, request: web.Request) -> web.Response:
        if request.match_info["folder"] not in self.models:
            return web.Response(status=404)
        return web.json_response(self.models[request.match_info["folder"]])

    async def _logs(self, request: web.Request) -> web.Response:
        lines = ["got prompt\n", "Prompt executed in 0.01 seconds\n", "got prompt\n"]
        if "dead worker logged" in self.faults:
            lines += ["Exception in thread ", "Thread-7", " (prompt_worker)", ":\n", "Traceback\n", "got prompt\n"]
        return web.json_response({"entries": [{"t": "now", "m": line} for line in lines], "size": {}})

    # --- websocket ----------------------------------------------------------------------------------------------------

    async def _ws(self, request: web.Request) -> web.StreamResponse:
        if "no ws" in self.faults:
            return web.Response(status=404)
        if "ws hangs" in self.faults:
            await asyncio.sleep(30)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client_id = request.query.get("clientId", "")
        self.sockets[client_id] = socket
        await self._send("status", {"status": self._queue_info(), "sid": client_id}, client_id)
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break
        self.sockets.pop(client_id, None)
        return socket

    async def _send(self, kind: str, data: dict[str, Any], client_id: str | None) -> None:
        for key, socket in list(self.sockets.items()):
            if client_id in (None, key):
                for _ in range(2 if "duplicated events" in self.faults else 1):
                    with contextlib.suppress(ConnectionError):
                        await socket.send_str(json.dumps({"type": kind, "data": data}))


@contextlib.contextmanager
def engines(count: int, **options: Any) -> Iterator[list[FakeEngine]]:
    """Several of them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeEngine(**options)) for _ in range(count)]
