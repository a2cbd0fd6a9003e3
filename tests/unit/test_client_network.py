"""Proxies and certificates of the environment: honoured, or told by the variable that names them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ryla_nodes.client import Client, from_graph
from ryla_nodes.client.address import Address, Route, find_proxy
from ryla_nodes.errors import RylaError
from unit.fake_engine import FakeEngine, graph
from unit.fake_engine_parts import add_workflow
from unit.test_client_faults import FAST

ENGINE = "http://engine.example:8188"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *map(str.lower, VARIABLES)):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def _proxy(target: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy that leads everything to one engine: its URL, and the first line of each request."""
    seen: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = target.split("://")[1].split(":")

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            head = client.recv(65536)
            seen.append(head.split(b"\r\n")[0].decode())
            engine = socket.create_connection((host, int(port)))
            if head.startswith(b"CONNECT"):
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                engine.sendall(head)
            for pair in ((client, engine), (engine, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_http_and_the_websocket_take_the_proxy_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeEngine(seconds=0.1) as engine, _proxy(engine.url) as (url, seen):
        monkeypatch.setenv(variable, url)
        with Client(ENGINE, limits=FAST) as client:
            assert client.run(from_graph(graph(), ["3"]), timeout=20).ok
    assert f"GET {ENGINE}/system_stats HTTP/1.1" in seen
    assert any(line.startswith("CONNECT engine.example:8188") for line in seen), "the websocket went another way"


NO_PROXY = [
    ("*", True), ("engine.example", True), (".example", True), ("example", True), ("*.example", True),
    ("ENGINE.example:8188", True), ("engine.example:80", False), ("ngine.example", False),
    ("other, engine.example", True), ("[::1]", False), ("10.0.0.0/8", False), ("", False),
    ("other engine.example", True),
]  # fmt: skip


@pytest.mark.parametrize(("value", "direct"), NO_PROXY)
def test_no_proxy_by_name_suffix_port_and_network(value: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", value)
    assert (find_proxy(ENGINE) is None) is direct


@pytest.mark.parametrize("entry", ["10.0.0.0/8", "10.1.2.3", "10.1.2.3:8188", "fd00::/8", "[fd00::7]"])
def test_no_proxy_for_addresses(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", entry)
    url = "http://[fd00::7]:8188" if "fd00" in entry else "http://10.1.2.3:8188"
    assert find_proxy(url) is None and find_proxy("http://192.0.2.7:8188") is not None


BAD = [
    ({"HTTP_PROXY": "ftp://x"}, "invalid_proxy", 'HTTP_PROXY is "ftp://x"'),
    ({"HTTP_PROXY": "http://me:s3cret@[::1"}, "invalid_proxy", "HTTP_PROXY"),
    ({"ALL_PROXY": "socks5://127.0.0.1:1080"}, "invalid_proxy", "socksio"),
    ({"HTTP_PROXY": "socks://127.0.0.1:1080"}, "invalid_proxy", "socksio"),
    ({"HTTP_PROXY": "127.0.0.1:9"}, "engine_unreachable", "through the proxy http://127.0.0.1:9 (HTTP_PROXY)"),
    ({"NO_PROXY": "[::1]"}, "engine_unreachable", "192.0.2.77"),
    ({"SSL_CERT_FILE": "/nonexistent"}, "engine_unreachable", "192.0.2.77"),
    ({"SSL_CERT_FILE": "/nonexistent", "SERVER": "https://192.0.2.77"}, "invalid_certificate", "SSL_CERT_FILE is"),
    ({"SSL_CERT_FILE": os.devnull, "SERVER": "https://192.0.2.77"}, "invalid_certificate", "SSL_CERT_FILE is"),
    ({"SSL_CERT_DIR": f"{os.devnull}/none", "SERVER": "https://192.0.2.77"}, "invalid_certificate", "SSL_CERT_DIR is"),
]  # fmt: skip


@pytest.mark.parametrize(("environ", "code", "says"), BAD, ids=lambda value: str(value)[:50])
def test_what_stands_in_the_way_is_named(environ: dict[str, str], code: str, says: str, tmp_path: Path) -> None:
    if "socksio" in says and importlib.util.find_spec("socksio"):
        pytest.skip("Does not apply: SOCKS is installed")
    server = environ.pop("SERVER", None) or "http://192.0.2.77:8188"
    command = "from ryla_nodes.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "run", "paint", "--prompt", "a", "--server", server, "--json"],
        capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | environ | {"RYLA_WORKFLOWS": str(add_workflow(tmp_path / "workflows"))},
    )  # fmt: skip
    environ |= {"SERVER": server}
    body = json.loads(done.stdout)
    assert body["error"]["code"] == code and says in body["error"]["message"]
    assert "s3cret" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_this_machine_is_never_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "ftp://x")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        assert Route.to(Address.parse(url)).proxy is None


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_of_ones_own_is_trusted_when_named_and_told_when_not(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make a certificate with")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "cert",
               ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    listener = tls.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)

    def serve() -> None:
        body = b'{"system": {"comfyui_version": "1"}, "devices": []}'
        while True:
            try:
                client, _ = listener.accept()
                client.recv(65536)
                client.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                client.close()
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    with Client(f"https://127.0.0.1:{listener.getsockname()[1]}", limits=FAST) as client:
        (status,) = client.engines()
    listener.close()
    if trusted:
        assert isinstance(status.error, RylaError | None)
        assert status.error is None or "queue" in status.error.message
    else:
        assert status.error is not None and "SSL_CERT_FILE=FILE" in status.error.message
