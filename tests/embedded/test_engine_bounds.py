"""What the embedded engine bounds: graphs, pictures, bodies and connections, each with an answer of its own."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from embedded.engine_client import Answer, Engine, message, node, picture, slow
from PIL import Image
from ryla_nodes.engines.embedded.core_nodes import core_classes
from ryla_nodes.engines.embedded.execution import jobs
from ryla_nodes.engines.embedded.execution.calls import Reporter
from ryla_nodes.engines.embedded.execution.graph import Schedule, signatures
from ryla_nodes.engines.embedded.execution.registry import Registry
from ryla_nodes.engines.embedded.execution.validation import validate
from ryla_nodes.engines.embedded.server import connections, messages
from ryla_nodes.engines.protocol import running_in
from websockets.exceptions import InvalidStatus

EMPTY = {"width": 8, "height": 8, "batch_size": 1, "color": 1}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home")) as started:
        yield started


def chain(length: int) -> dict[str, Any]:
    """EmptyImage, ``length`` times ImageInvert, PreviewImage."""
    graph = {"0": node("EmptyImage", **EMPTY)}
    for index in range(length):
        graph[str(index + 1)] = node("ImageInvert", image=[str(index), 0])
    return graph | {"end": node("PreviewImage", images=[str(length), 0])}


def flat(pairs: int, **inputs: Any) -> dict[str, Any]:
    """Pairs of EmptyImage and PreviewImage, each of a colour of its own."""
    graph = {}
    for index in range(pairs):
        graph[f"a{index}"] = node("EmptyImage", **{**EMPTY, "color": index, **inputs})
        graph[f"b{index}"] = node("PreviewImage", images=[f"a{index}", 0])
    return graph


@pytest.mark.parametrize("length", [400, 900, 2000])
def test_a_chain_may_be_as_long_as_it_likes(engine: Engine, length: int) -> None:
    prompt_id = engine.accept(chain(length))
    assert engine.wait(prompt_id, timeout=120)["status"]["status_str"] == "success"


def test_a_long_circle_is_told_in_a_short_answer(engine: Engine) -> None:
    graph = chain(5000)
    graph["0"] = node("ImageInvert", image=["5000", 0])
    answer = engine.submit(graph)
    assert answer.status_code == 400 and len(answer.content) < 1_000_000
    assert "dependency_cycle" in answer.text


def test_many_bad_outputs_are_told_in_a_short_answer(engine: Engine) -> None:
    answer = engine.submit(flat(3000, width=0))
    assert answer.status_code == 400 and len(answer.content) < 1_000_000
    assert len(answer.json()["node_errors"]) == 100


def planned(graph: dict[str, Any], registry: Registry) -> float:
    """Seconds to check and to order a graph, nothing of it run."""
    started = time.process_time()
    verdict = validate(graph, registry, Reporter(None))
    assert verdict.error is None and len(verdict.outputs) > 0
    known = registry.remembering()
    assert len(signatures(graph, known, verdict.outputs)) == len(graph)
    schedule = Schedule(graph, known, lambda node_id: False)
    for output in verdict.outputs:
        schedule.add(output)
    order = []
    while (node_id := schedule.next()) is not None:
        order.append(node_id)
        schedule.done(node_id)
    assert sorted(order) == sorted(graph)
    return time.process_time() - started


@pytest.mark.parametrize("shape", [flat, chain, lambda size: chain(8) | flat(size), lambda size: hub(size)])
def test_the_time_to_plan_a_graph_grows_as_the_graph(shape: Any, engine: Engine) -> None:
    """Four times the nodes in about four times the time: 16 would be the square of it."""
    with running_in(engine.engine):
        registry = Registry(core_classes())
        planned(shape(200), registry)
        small, large = (min(planned(shape(size), registry) for _ in range(3)) for size in (500, 2000))
    assert large < small * 8


def hub(size: int) -> dict[str, Any]:
    """One picture that many nodes show, before and after it is inverted."""
    graph = {"0": node("EmptyImage", **EMPTY), "1": node("ImageInvert", image=["0", 0])}
    for index in range(size):
        graph[f"a{index}"] = node("PreviewImage", images=[str(index % 2), 0])
        graph[f"b{index}"] = node("ImageInvert", image=[f"a{index}", 0])
        graph[f"c{index}"] = node("PreviewImage", images=[f"b{index}", 0])
    return graph


def test_a_flat_graph_of_a_thousand_nodes_runs_in_seconds(engine: Engine) -> None:
    """Its pictures hold the nodes that they need, since all of them together would hold the graph 500 times."""
    prompt_id = engine.accept(flat(500), client_id="x")
    entry = engine.wait(prompt_id, timeout=120)
    assert entry["status"]["status_str"] == "success" and len(entry["outputs"]) == 500


def test_pictures_of_a_large_graph_hold_what_they_need(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryla_nodes.engines.embedded.core_nodes.image_files.MAX_METADATA_BYTES", 10_000)
    graph = flat(40, width=9)
    saved = engine.succeed(graph)["b7"]["images"][0]
    shown = Image.open(BytesIO(engine.http.get("/view", params=saved).content))
    assert json.loads(shown.text["prompt"]) == {key: graph[key] for key in ("a7", "b7")}  # type: ignore[attr-defined]


def test_a_graph_whose_pictures_do_not_fit_into_memory_fails(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._executor.cache, "_limit", 3_000_000)
    graph = chain(10)
    graph["0"]["inputs"] |= {"width": 256, "height": 256}
    error = message(engine.run(graph), "execution_error")
    assert "[graph_too_large]" in error["exception_message"] and error["current_outputs"] == []
    graph["0"]["inputs"] |= {"width": 64, "height": 64}
    engine.succeed(graph)


def test_a_queue_has_an_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAXIMUM_WAITING", 2)
    running = engine.accept(slow(steps=9000))
    engine.wait_until_running(running)
    answers = [engine.submit(picture(color)) for color in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["type"] == "queue_full" and answers[2].headers["Retry-After"]
    engine.http.post("/queue", json={"clear": True})
    engine.http.post("/interrupt")
    engine.wait(running)


def test_the_history_has_an_end_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAXIMUM_BYTES", 100_000)
    with Engine(tmp_path) as engine:
        ids = [engine.accept({"1": node("RylaTest_Show", value=letter * 30_000)}) for letter in "abcdef"]
        engine.wait(ids[-1])
        assert list(engine.get("/history")) == ids[-len(engine.get("/history")) :] != ids


# Pictures


def png(size: tuple[int, int], mode: str = "1", kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def loaded(engine: Engine, data: bytes) -> str:
    """What loading a picture says, in a graph and as a preview; nothing when it is loaded."""
    (engine.files.input / "given.png").write_bytes(data)
    graph = {"1": node("LoadImage", image="given.png"), "2": node("PreviewImage", images=["1", 0])}
    failures = [data for event, data in engine.run(graph)["status"]["messages"] if event == "execution_error"]
    return str(failures[0]["exception_message"]) if failures else ""


def many_frames(count: int, size: tuple[int, int] = (2, 2)) -> bytes:
    frames = [Image.new("L", size, index % 256) for index in range(count)]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    ("name", "code"),
    [("bomb", "image_too_large"), ("eps", "unreadable_image"), ("pcx", "unreadable_image"), ("cut", "unreadable_image"),
     ("wide", "image_too_large"), ("frames", "image_too_large"), ("large frames", "image_too_large")],
)  # fmt: skip
def test_a_picture_is_judged_before_it_is_decoded(engine: Engine, name: str, code: str) -> None:
    data = {
        "bomb": lambda: png((12_000, 12_000)),  # 18 KB that would take 5 GB
        "eps": lambda: EPS,
        "pcx": lambda: png((8, 8), "RGB", "PCX"),
        "cut": lambda: png((64, 64), "RGB")[:60],
        "wide": lambda: png((60_000, 2_000), kind="TIFF", compression="group4"),
        "frames": lambda: many_frames(4097),
        "large frames": lambda: many_frames(70, (1000, 1000)),
    }[name]()
    assert len(data) < 1_000_000
    assert f"[{code}]" in loaded(engine, data)
    status = {"image_too_large": 413, "unreadable_image": 422}[code]
    if not name.endswith("frames"):  # a preview is of the first
        answer = engine.http.get("/view?filename=given.png&type=input&preview=webp")
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_formats_that_we_mean_are_loaded(engine: Engine, kind: str) -> None:
    assert loaded(engine, png((9, 7), "RGB", kind)) == ""


@pytest.mark.parametrize(
    "graph",
    [
        {"1": node("EmptyImage", width=16384, height=16384, batch_size=4096, color=1)},
        {"1": node("EmptyImage", width=16384, height=16384, batch_size=1, color=1)},
        {
            "0": node("EmptyImage", width=1, height=64, batch_size=1, color=1),
            "1": node("ImageScale", image=["0", 0], upscale_method="bilinear", width=16384, height=0, crop="disabled"),
        },
    ],
)
def test_pictures_of_any_size_do_not_take_all_memory(engine: Engine, graph: dict[str, Any]) -> None:
    error = message(engine.run({**graph, "9": node("PreviewImage", images=["1", 0])}), "execution_error")
    assert "[image_too_large]" in error["exception_message"]


def test_a_batch_of_a_hundred_megapixels_is_made(engine: Engine) -> None:
    graph = {"1": node("EmptyImage", width=1024, height=1024, batch_size=96, color=77)}
    scaled = node("ImageScale", image=["1", 0], upscale_method="nearest-exact", width=8, height=8, crop="disabled")
    messages = engine.run({**graph, "2": scaled, "9": node("PreviewImage", images=["2", 0])})
    assert message(messages, "execution_success")


@pytest.mark.parametrize("size", [(16384, 16384, 4096), (16384, 16384, 1), (512, 512, 4096)])
def test_latents_of_any_size_do_not_take_all_memory(engine: Engine, size: tuple[int, int, int]) -> None:
    latent = node("EmptySD3LatentImage", width=size[0], height=size[1], batch_size=size[2])
    error = message(engine.run({"1": latent, "2": node("RylaTest_Show", value=["1", 0])}), "execution_error")
    assert "[image_too_large]" in error["exception_message"]


# Bodies


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x"])
def test_compressed_bodies_are_not_unpacked(engine: Engine, encoding: str) -> None:
    bomb = b" " * (200 << 20)
    body = zlib.compress(bomb) if encoding == "deflate" else gzip.compress(bomb, 1)
    before = psutil.Process().memory_info().rss
    for path, kind in (("/prompt", "application/json"), ("/upload/image", "multipart/form-data; boundary=X")):
        answer = engine.send("POST", path, body, Content_Encoding=encoding, Content_Type=kind)
        assert answer.status == 415 and answer.error == "compressed_body"
    assert psutil.Process().memory_info().rss - before < 100 << 20


def test_bodies_without_a_length_have_the_same_limits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_JSON_BYTES", 1000)
    monkeypatch.setattr(messages, "MAX_UPLOAD_BYTES", 1000)
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: %s\r\n\r\n"
    answer = engine.send_bytes(head % (b"/prompt", b"application/json") + chunk * 3 + b"0\r\n\r\n")
    assert answer.status == 413 and answer.error == "body_too_large"
    form = b'--X\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    chunks = b"%x\r\n%s\r\n" % (len(form), form) + chunk * 3 + b"0\r\n\r\n"
    answer = engine.send_bytes(head % (b"/upload/image", b"multipart/form-data; boundary=X") + chunks)
    assert answer.status == 413 and answer.error == "body_too_large"


def test_large_bodies_together_have_a_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_HELD_BYTES", 10_000)
    with engine.connect() as holding:
        holding.sendall(b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n" + b" " * 9000)
        deadline = time.monotonic() + 10
        while (answer := engine.send("POST", "/queue", b" " * 2000 + b"{}")).status != 503:
            assert time.monotonic() < deadline
    assert answer.error == "engine_busy"
    while engine.send("POST", "/queue", b" " * 2000 + b"{}").status != 200:
        assert time.monotonic() < deadline


# Connections


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine that has room for ten connections, and waits for nobody long."""
    monkeypatch.setattr(connections, "_limit", lambda: 10)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(messages, "BODY_SECONDS", 0.5)
    with Engine(tmp_path) as engine:
        yield engine


def read(connection: socket.socket) -> Answer:
    """What comes until the engine closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            answer += data
    return Answer(answer)


@pytest.mark.parametrize("start", [b"", b"GET", b"GET /queue HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_request_that_does_not_come_is_not_waited_for(small: Engine, start: bytes) -> None:
    with small.connect() as connection:
        connection.sendall(start)
        answer = read(connection)
    assert answer.status == 408 and b"No request came in time" in answer


@pytest.mark.parametrize("start", [b"", b'{"prompt"'])
def test_a_body_that_does_not_come_is_not_waited_for(small: Engine, start: bytes) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + start)
        answer = read(connection)
    assert answer.status == 408 and answer.error == "body_too_slow"


def test_a_connection_without_a_further_request_is_closed(small: Engine) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /prompt HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = read(connection)
    assert answer.status == 200 and answer.endswith(b"}}")  # nothing behind the answer


def test_who_waits_makes_room_for_who_asks(small: Engine) -> None:
    with contextlib.ExitStack() as many:
        idle = [many.enter_context(small.connect()) for _ in range(10)]
        time.sleep(connections.PATIENT_SECONDS + 0.1)
        assert small.send("GET", "/queue").status == 200
        assert read(idle[0]).status in (408, 503)


def test_without_room_the_answer_is_503(small: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 30)
    monkeypatch.setattr(connections, "PATIENT_SECONDS", 30)
    with contextlib.ExitStack() as many:
        for _ in range(10):
            many.enter_context(small.connect())
        answer = small.send("GET", "/queue")
        assert answer.status == 503 and b"too many connections" in answer
    deadline = time.monotonic() + 10
    while small.send("GET", "/queue").status != 200:
        assert time.monotonic() < deadline


def test_websockets_leave_room_for_requests(small: Engine) -> None:
    with contextlib.ExitStack() as many:
        for index in range(5):
            many.enter_context(small.listen(f"client{index}"))
        with pytest.raises(InvalidStatus) as refused:
            small.listen("another")
        assert refused.value.response.status_code == 503
        time.sleep(2)  # they are not waited for
        assert small.send("GET", "/queue").status == 200
    small.succeed(picture())


def test_an_answer_that_nobody_takes_is_dropped(small: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryla_nodes.engines.embedded.server.guard.ANSWER_SECONDS", 0.5)
    (small.files.output / "large.txt").write_bytes(b"x" * (30 << 20))
    with small.connect() as connection:
        connection.sendall(b"GET /view?filename=large.txt HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        deadline = time.monotonic() + 10
        (taking,) = small._connections._peers
        while not taking.is_closing():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert small.send("GET", "/queue").status == 200


def test_it_paints_on_with_256_descriptors_and_400_open_connections(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", "engine"]
    environment = {name: value for name, value in os.environ.items() if name != "RYLA_TOKEN"}
    with (
        subprocess.Popen(
            [*command, "--port", "0", "--home", str(tmp_path), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
        ) as process,
        contextlib.ExitStack() as many,
    ):
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        for _ in range(400):
            many.enter_context(socket.create_connection(address, timeout=30))
        with httpx.Client(base_url=url, timeout=60, trust_env=False, transport=httpx.HTTPTransport(retries=5)) as http:
            deadline = time.monotonic() + 30
            while (
                answer := asked(http, "POST", "/prompt", {"prompt": picture()})
            ) is None or answer.status_code == 503:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            prompt_id = answer.json()["prompt_id"]
            while not (entry := asked(http, "GET", f"/history/{prompt_id}")) or not entry.json():
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert entry.json()[prompt_id]["status"]["status_str"] == "success"
        process.terminate()
        assert process.wait(30) == 0


def asked(http: httpx.Client, method: str, path: str, body: Any = None) -> httpx.Response | None:
    """An answer, or None when the engine closed the connection for others."""
    try:
        return http.request(method, path, json=body)
    except httpx.TransportError:
        return None
