"""Who may ask the embedded engine: no web page drives it, and a token that is set is asked for everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from embedded.engine_client import Engine, picture
from ryla_nodes import settings
from ryla_nodes.cli.run import engines
from ryla_nodes.cli.run.engines import Choice, EngineKind
from ryla_nodes.client import Client
from ryla_nodes.client.address import Address
from ryla_nodes.client.async_client import from_graph
from ryla_nodes.errors import RylaError
from websockets.exceptions import InvalidStatus

GRAPH = json.dumps({"prompt": picture(prefix="page")}).encode()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine on a loopback address that has a token."""
    with Engine(tmp_path_factory.mktemp("home"), token="s3cret") as started:
        yield started


def proxied(home: Path, hosts: str) -> Engine:
    return Engine(home, settings=settings.load({"RYLA_HOME": str(home), "RYLA_ALLOWED_HOSTS": hosts}))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("0.0.0.0:{port}", "http://evil.example"),
        ("evil.example:{port}", "http://evil.example:{port}"),
        ("localhost.:{port}", "http://evil.example"),
        ("[::ffff:127.0.0.1]:{port}", "http://evil.example"),
        # Of our own: names that only look like this machine, other spellings of its address, other pages on it.
        ("localhost.evil.example:{port}", "http://localhost.evil.example:{port}"),
        ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example"),
        ("2130706433:{port}", "http://2130706433:{port}"),
        ("[::]:{port}", "http://[::]:{port}"),
        ("127.0.0.1:{port}", "null"),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}@evil.example"),
        ("127.0.0.1:{port}", "http://localhost:{port}"),
        ("localhost:{port}", "http://localhost:3000"),
        ("localhost:{port}", "file://localhost:{port}"),
        ("localhost:{port}", "chrome-extension://localhost:{port}"),
    ],
)
def test_a_web_page_cannot_drive_it(engine: Engine, host: str, origin: str) -> None:
    given = {"Host": host.format(port=engine.port), "Origin": origin.format(port=engine.port)}
    assert engine.send("POST", "/prompt", GRAPH, **given, Content_Type="text/plain").status == 403
    assert engine.send("GET", "/queue", **given).status == 403
    assert engine.get("/queue") == {"queue_running": [], "queue_pending": []} and engine.get("/history") == {}


@pytest.mark.parametrize(
    "host", ["evil.example", "0.0.0.0:{port}", "x..y", "[::1", "127.0.0.1:99999", "a" * 300, b"\xff"]
)
def test_a_name_that_is_not_its_own_is_refused_whatever_asks(engine: Engine, host: str | bytes) -> None:
    given = host if isinstance(host, bytes) else host.format(port=engine.port)
    answer = engine.send("GET", "/queue", Host=given)
    assert answer.status in (400, 403) and not engine.leaks(answer)


def test_a_refusal_names_the_setting(engine: Engine) -> None:
    answer = engine.send("GET", "/queue", Host="paint.example")
    assert answer.error == "host_not_allowed"
    assert b"'paint.example'" in answer and b"localhost" in answer and b"RYLA_ALLOWED_HOSTS" in answer


def test_two_host_headers_are_refused(engine: Engine) -> None:
    request = b"GET /queue HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert engine.send_bytes(request).status in (400, 403)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}", "localhost:9"]
)
def test_its_own_names_are_answered_through_any_port(engine: Engine, host: str) -> None:
    given = host.format(port=engine.port)
    assert engine.send("GET", "/queue", Host=given).status == 200
    assert engine.send("GET", "/queue", Host=given, Origin=f"http://{given}".lower()).status == 200


def test_programs_that_name_no_host_are_answered(engine: Engine) -> None:
    assert engine.send_bytes(b"GET /queue HTTP/1.0\r\n\r\n").status == 200
    assert engine.send_bytes(b"GET /queue HTTP/1.0\r\nOrigin: http://evil.example\r\n\r\n").status == 403


def test_a_page_of_another_origin_cannot_listen(engine: Engine) -> None:
    with pytest.raises(InvalidStatus) as refused:
        engine.listen("x", origin="http://evil.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


def test_a_reverse_proxy_s_name_can_be_allowed(tmp_path: Path) -> None:
    with proxied(tmp_path, "Paint.example, gpu:8188") as engine:
        for host, origin, status in (
            ("paint.example", "https://paint.example", 200),
            ("127.0.0.1", "https://paint.example", 200),  # nginx's default Host
            ("gpu", "http://gpu", 200),
            ("other.example", "http://other.example", 403),
            ("paint.example", "https://evil.example", 403),
            ("sub.paint.example", "https://sub.paint.example", 403),
        ):
            assert engine.send("GET", "/queue", Host=host, Origin=origin).status == status, (host, origin)


def test_an_allowed_host_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(RylaError) as refused:
        proxied(tmp_path, "https://paint.example/")
    assert "RYLA_ALLOWED_HOSTS" in refused.value.message


@pytest.mark.parametrize(
    "path", ["/", "/queue", "/api/queue", "/history", "/object_info", "/view?filename=x", "/ws", "/no"]
)
def test_a_token_is_asked_for_on_every_path(locked: Engine, path: str) -> None:
    answer = locked.send("GET", path)
    assert answer.status == 401 and answer.error == "token_required" and b"WWW-Authenticate: Bearer" in answer


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer  s3cret", 200),
        ("Bearer S3cret", 401),
        ("Bearer s3cret2", 401),
        ("Bearer", 401),
        ("s3cret", 401),
        ("Basic s3cret", 401),
        ("Bearer s3cret\u00e9", 401),
    ],
)
def test_the_token_must_be_the_one(locked: Engine, authorization: str, status: int) -> None:
    assert locked.send("GET", "/queue", Authorization=authorization).status == status


def test_who_bears_the_token_may_ask_by_any_name(locked: Engine) -> None:
    given = {"Host": "gpubox.lan:8188", "Origin": "https://paint.example", "Authorization": "Bearer s3cret"}
    assert locked.send("GET", "/queue", **given).status == 200


def test_the_websocket_asks_for_the_token(locked: Engine) -> None:
    with pytest.raises(InvalidStatus) as refused:
        locked.listen("x")
    assert refused.value.response.status_code == 401
    with locked.listen("x", additional_headers={"Authorization": "Bearer s3cret"}) as connection:
        assert json.loads(connection.recv(timeout=5))["type"] == "status"


def test_the_command_asks_for_the_token_on_this_machine_too(tmp_path: Path) -> None:
    ryla = [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", "engine"]
    environment = os.environ | {"RYLA_TOKEN": "s3cret", "COLUMNS": "200"}
    command = [*ryla, "--port", "0", "--home", str(tmp_path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert httpx.get(f"{url}/queue", trust_env=False).status_code == 401
        bearer = {"Authorization": "Bearer s3cret"}
        assert httpx.get(f"{url}/queue", headers=bearer, trust_env=False).status_code == 200
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("server", "authorization"),
    [
        ("http://127.0.0.1:8188", "Bearer s3cret"),
        ("localhost:8188/comfy", "Bearer s3cret"),
        ("http://[::1]:8188", "Bearer s3cret"),
        ("http://:other@127.0.0.1:8188", "Bearer other"),
        ("http://gpubox:8188", ""),
        ("https://127.0.0.1.evil.example", ""),
        ("http://192.168.1.5:8188", ""),
    ],
)
def test_the_token_goes_to_this_machine_and_no_other(server: str, authorization: str) -> None:
    assert Address.parse(server, settings.load({"RYLA_TOKEN": "s3cret"})).authorization == authorization
    assert Address.parse(server, settings.load({})).authorization in ("", "Bearer other")


def test_a_client_with_the_same_variable_is_let_in(locked: Engine) -> None:
    graph = from_graph(picture(prefix="client"), ["3"])
    with Client(locked.url, settings=settings.load({"RYLA_TOKEN": "s3cret"})) as client:
        assert client.wait(client.start(graph)).ok
    with Client(locked.login_url, settings=settings.load({})) as client:
        assert client.wait(client.start(graph)).ok
    with Client(locked.url, settings=settings.load({})) as client:
        failed = client.wait(client.start(graph))
        assert failed.error is not None and failed.error.code == "engine_forbidden"


def test_the_engine_inside_of_ryla_run_takes_orders_from_it_alone(tmp_path: Path) -> None:
    others = listening()
    with engines.client(Choice(kind=EngineKind.EMBEDDED), settings.load({"RYLA_HOME": str(tmp_path)})) as client:
        assert client.wait(client.start(from_graph(picture(prefix="inside"), ["3"]))).ok
        (port,) = listening() - others
        assert httpx.get(f"http://127.0.0.1:{port}/queue", trust_env=False).status_code == 401


def listening() -> set[int]:
    """The ports that this process listens on."""
    return {each.laddr.port for each in psutil.Process().net_connections("tcp") if each.status == "LISTEN"}


def test_refusing_takes_no_look_at_the_body(locked: Engine) -> None:
    started = time.monotonic()
    answer = locked.send("POST", "/prompt", b"x", Content_Length="100000000")
    assert answer.status == 401 and time.monotonic() - started < 5
