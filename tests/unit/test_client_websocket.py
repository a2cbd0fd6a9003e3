"""The websocket's thread: it ends with its job, keeps logins and certificates, and holds nobody up."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from ryla_nodes.client import Client, from_graph
from ryla_nodes.client.address import Address, Route
from ryla_nodes.client.protocol import Connection, Event, Signal
from ryla_nodes.client.websocket import Wakeups
from unit.fake_engine import FakeEngine, graph
from unit.test_client_faults import FAST, _until

PROMPT = from_graph(graph(), ["3"])
TESTS = Path(__file__).parents[1]


def _threads() -> int:
    return sum(thread.name == "ryla-websocket" for thread in threading.enumerate())


@pytest.mark.parametrize("fault", ["", "ws hangs", "no ws", "wsdrop", "wsstall"])
def test_the_thread_ends_with_its_job(fault: str) -> None:
    with FakeEngine(fault, seconds=0.01) as engine, Client(engine.url, limits=FAST) as client:
        assert client.run(PROMPT).ok
        _until(lambda: _threads() == 0, 0.5)


def test_closing_the_client_closes_the_sockets_of_jobs_that_go_on() -> None:
    with FakeEngine(seconds=20) as engine:
        with Client(engine.url, limits=FAST) as client:
            job = client.submit(PROMPT)
            _until(lambda: job.prompt_id in engine.sockets)
        _until(lambda: not engine.sockets and _threads() == 0, 0.5)


def test_a_program_that_closes_nothing_ends_all_the_same() -> None:
    script = (
        "import sys; from ryla_nodes.client import Client, from_graph; from unit.fake_engine import graph;"
        "client = Client(sys.argv[1]); client.submit(from_graph(graph(), ['3'])); print('here', flush=True)"
    )
    with FakeEngine(seconds=30) as engine:
        child = subprocess.Popen(
            [sys.executable, "-c", script, engine.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=TESTS, env=os.environ | {"PYTHONPATH": str(TESTS)},
        )  # fmt: skip
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        began = time.monotonic()
        _, err = child.communicate(timeout=10)
        assert (child.returncode, err) == (0, "") and time.monotonic() - began < 2.0


@contextmanager
def _server(handler: web.RequestHandler, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server in a thread whose every path is answered by ``handler``; its port."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _talking(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(json.dumps({"type": "executing", "data": {"node": "7", "prompt_id": "p"}}))
    async for _ in socket:
        pass
    return socket


def _heard(url: str, seconds: float) -> list[Signal]:
    """What a websocket to ``url`` delivers."""
    signals: list[Signal] = []

    async def listen() -> None:
        socket = Wakeups(Address.parse(url), Route.to(Address.parse(url)), "id", FAST)
        socket.deliver_to(signals.append)
        await socket.tried(seconds)
        end = time.monotonic() + seconds
        while not any(isinstance(signal, Event) for signal in signals) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        socket.stop()
        await socket.closed()

    asyncio.run(listen())
    return signals


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A PEM file with a key and the certificate of localhost, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make a certificate with")
    file = tmp_path / "localhost.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "cert",
               ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    file.write_text((tmp_path / "key").read_text() + (tmp_path / "cert").read_text())
    return file


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_is_checked_as_for_http_calls(
    certificate: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with _server(_talking, tls) as port:
        signals = _heard(f"https://localhost:{port}", 5.0 if trusted else 0.3)
    assert signals == ([Connection(True), Event("p", node="7")] if trusted else [])
    assert _threads() == 0


def test_a_login_does_not_follow_a_redirect_to_another_address() -> None:
    logins: list[str | None] = []

    async def elsewhere(request: web.Request) -> web.WebSocketResponse:
        logins.append(request.headers.get("Authorization"))
        return await _talking(request)

    with _server(elsewhere) as port:

        async def redirect(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"ws://localhost:{port}/ws"})

        with _server(redirect) as first:
            assert _heard(f"http://me:s3cret@127.0.0.1:{first}", 0.3) == []
    assert logins == []
