"""A reverse proxy before a gateway that misbehaves on demand, as load balancers and tunnels do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web


class Proxy:
    """Start it with ``with``. ``faults`` names what goes wrong:

    ``502 after``, ``reset after``: the next POST arrives and its answer is lost; ``502 before``: it does not arrive;
    ``no place``: the next POST is answered with 429; ``buffers``: a stream is passed on when it has ended;
    ``cuts``: each stream breaks after its third event; ``no events``: streams are refused; ``down``: 502 for all;
    ``half picture``: the next picture is cut off.
    """

    def __init__(self, target: Callable[[], str], *faults: str) -> None:
        self.faults = set(faults)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._target = target
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def count(self, method: str, part: str = "") -> int:
        """How many requests of a method came whose path contains ``part``."""
        return sum(1 for each, path, _ in self.requests if each == method and part in path)

    def keys(self) -> list[str]:
        """The Idempotency-Key of each POST."""
        return [headers.get("Idempotency-Key", "") for method, _, headers in self.requests if method == "POST"]

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**27)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            self._ready.set()
            await self._stop.wait()
        await runner.cleanup()

    def _strikes(self, fault: str) -> bool:
        """Whether a fault that happens once happens now."""
        if fault in self.faults:
            self.faults.remove(fault)
            return True
        return False

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, dict(request.headers)))
        posting, events = request.method == "POST", request.path.endswith("/events")
        if (
            "down" in self.faults
            or (posting and self._strikes("502 before"))
            or (events and "no events" in self.faults)
        ):
            return web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html")
        if posting and self._strikes("no place"):
            return web.Response(status=429, headers={"Retry-After": "1"})
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        body = await request.read()
        try:
            async with self._session.request(
                request.method, self._target() + request.path_qs, headers=headers, data=body
            ) as answer:
                if posting and self._strikes("502 after"):
                    await answer.read()
                    return web.Response(status=502, text="Bad Gateway")
                if posting and self._strikes("reset after"):
                    await answer.read()
                    request.transport.abort()  # type: ignore[union-attr]
                    return web.Response()
                return await self._answer(request, answer, events)
        except aiohttp.ClientError:
            return web.Response(status=502, text="Bad Gateway")

    async def _answer(self, request: web.Request, answer: Any, events: bool) -> web.StreamResponse:
        kept = ("content-type", "x-job-id", "retry-after", "location")
        headers = {name: value for name, value in answer.headers.items() if name.lower() in kept}
        if not events or "buffers" in self.faults:
            data = await answer.read()
            if request.path.endswith("/result") and self._strikes("half picture"):
                data = data[: len(data) // 2]
            return web.Response(status=answer.status, headers=headers, body=data)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        passed = 0
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
            passed += chunk.count(b"event: ")
            if "cuts" in self.faults and passed >= 3:
                request.transport.abort()  # type: ignore[union-attr]
                break
        return response
