"""Requests of every shape to every route of the embedded engine: no 500, no path, and it paints on.

``RYLA_FUZZ_REQUESTS`` is the number of requests: 300 when not set.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import psutil
import pytest
from embedded.engine_client import Asks, picture
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from ryla_nodes.engines.embedded.files import EngineFiles

log = logging.getLogger(__name__)

REQUESTS = int(os.environ.get("RYLA_FUZZ_REQUESTS", "300"))
GROWTH = 200 << 20
PATHS = (
    "/", "/prompt", "/queue", "/history", "/interrupt", "/free", "/view", "/upload/image", "/upload/mask",
    "/object_info", "/object_info/SaveImage", "/system_stats", "/features", "/embeddings", "/models", "/models/loras",
    "/ws", "/history/x", "/api/jobs", "/api/jobs/x", "/api/jobs/x/cancel", "/nowhere",
)  # fmt: skip
NAMES = (
    "seen.png", "text.png", "half.png", "big.png", "deep/seen.png", "..", "../x", "/etc/passwd", "a" * 300, "\0", "",
    "x.png [output]", "CON", "é\u2028.png", "seen.png [temp]", ".", "folder",
)  # fmt: skip

texts = st.one_of(st.text(max_size=12), st.sampled_from(NAMES), st.just("9" * 4999), st.just("NaN"))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, st.sampled_from([2**64, -(2**63), 10**400, 1e308])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
CLASSES = (
    "EmptyImage", "ImageInvert", "ImageScale", "SaveImage", "PreviewImage", "LoadImage", "LoadImageMask", "KSampler",
    "CLIPTextEncode", "PrimitiveInt", "PrimitiveString", "RYLA_Prompt", "RYLA_LoraLoader", "RYLA_FluxLoader",
    "RYLA_SaveImage", "RYLA_FaceCrop", "RylaTest_Checked", "RylaTest_Text", "RylaTest_Show", "RylaTest_Choose",
    "VAELoader", "EmptyLatentImage", "NoSuchNode",
)  # fmt: skip
GOOD = {
    "width": st.integers(1, 64), "height": st.integers(1, 64), "batch_size": st.integers(1, 2),
    "color": st.integers(0, 9), "filename_prefix": texts, "image": st.sampled_from(NAMES), "channel": st.just("red"),
    "upscale_method": st.sampled_from(["bilinear", "lanczos"]), "crop": st.just("center"), "text": texts,
    "value": values, "lora_id": texts, "on_missing": st.sampled_from(["error", "pass"]), "even": st.integers(0, 14),
    "small": st.integers(0, 11), "word": st.sampled_from(["a", "refuse"]), "many": st.just("1"),
    "fail": st.integers(0, 3), "first": st.booleans(), "vae_name": texts,
}  # fmt: skip
ids = st.sampled_from(["1", "2", "3", "4", "5"])
links = st.one_of(
    st.tuples(ids, st.integers(0, 1)).map(list),
    st.tuples(values, values).map(list),
    st.lists(values, max_size=3),
)


@st.composite
def nodes(draw: st.DrawFn) -> Any:
    """A node whose inputs are mostly those that it has."""
    if draw(st.integers(0, 19)) == 0:
        return draw(values)
    linked = ("image", "images", "a", "b", "other", "model", "clip", "samples", "vae", "mask", "texts", "value", "text")
    chosen = draw(st.lists(st.sampled_from([*GOOD, *linked]), max_size=9, unique=True))
    inputs = {
        name: draw(links if name in linked and draw(st.booleans()) else GOOD.get(name, values)) for name in chosen
    }
    if draw(st.integers(0, 9)) == 0:
        inputs[draw(texts)] = draw(values)
    node = {"class_type": draw(st.sampled_from(CLASSES)), "inputs": inputs, "_meta": {"title": draw(texts)}}
    for key in draw(st.lists(st.sampled_from(list(node)), max_size=1)):
        node[key] = draw(values)
    return node


chains = st.dictionaries(ids, nodes(), min_size=1, max_size=5)


@st.composite
def pictures(draw: st.DrawFn) -> Any:
    """A graph that makes a picture, with one thing in it changed, or none."""
    graph = picture(draw(st.integers(0, 0xFFFFFF)), draw(texts), draw(st.integers(1, 64)))
    if draw(st.booleans()):
        graph[draw(st.sampled_from(["1", "2", "3"]))]["inputs"][draw(st.sampled_from(list(GOOD)))] = draw(values)
    return graph


submits = st.fixed_dictionaries(
    {"prompt": st.one_of(chains, pictures(), values)},
    optional={
        "number": values, "front": values, "client_id": values, "prompt_id": values, "extra_data": values,
        "partial_execution_targets": values,
    },
)  # fmt: skip
orders = st.dictionaries(
    st.sampled_from(["clear", "delete", "prompt_id", "unload_models", "free_memory", "x"]), values, max_size=3
)
queries = st.dictionaries(
    st.sampled_from([
        "filename", "type", "subfolder", "preview", "channel", "max_items", "offset", "limit", "status", "sort_by",
        "sort_order", "workflow_id", "clientId",
    ]),
    st.one_of(texts, st.sampled_from(["output", "input", "temp", "jpeg;90", "webp", "rgb", "a", "1", "-1", "asc"])),
    max_size=4,
)  # fmt: skip
headers = st.dictionaries(
    st.sampled_from([
        "Origin", "Sec-Fetch-Site", "Authorization", "Content-Encoding", "Range", "Accept-Encoding", "Expect",
        "If-Modified-Since", "Upgrade", "Connection", "X-" + "y" * 100, "Transfer-Encoding", "Cookie", "Host",
    ]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([
            b"null", b"cross-site", b"gzip", b"deflate", b"bytes=0-", b"bytes=9-1", b"chunked", b"100-continue",
            b"websocket", b"\xff\xfe", b"http://evil.example", b"Bearer x", b"a" * 9000,
        ]),
    ).map(lambda value: re.sub(rb"[\r\n\0]", b"", value)),
    max_size=2,
)  # fmt: skip


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """A multipart body, more or less."""
    body = b""
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(["image", "subfolder", "type", "overwrite", "original_ref", "x"]))
        filename = draw(st.none() | texts)
        extra = draw(
            st.sampled_from(["", "\r\nContent-Transfer-Encoding: base64", "\r\nContent-Type: multipart/mixed"])
        )
        told = f'; filename="{filename}"' if filename is not None else ""
        content = draw(
            st.one_of(texts.map(encoded), st.just(PNG), st.binary(max_size=50), values.map(dumped), references)
        )
        disposition = encoded(f'--X\r\nContent-Disposition: form-data; name="{name}"{told}{extra}\r\n\r\n')
        body += disposition + content + b"\r\n"
    return body + draw(st.sampled_from([b"--X--\r\n", b"", b"--X", b"--Y--\r\n"]))


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def png(size: tuple[int, int]) -> bytes:
    buffer = BytesIO()
    Image.new("1", size).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png((8, 6))
references = st.fixed_dictionaries({"filename": st.sampled_from(NAMES)}, optional={"subfolder": values}).map(dumped)
bodies = st.one_of(
    submits.map(dumped), orders.map(dumped), values.map(dumped), forms(), st.binary(max_size=60),
    st.sampled_from([b"", b"[" * 100_000, b'{"a":' * 5000, b"{}", b'{"prompt": {}, "number": 1e999}']),
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """The bytes of one request."""
    path = draw(st.sampled_from(["", "/api"])) + draw(st.sampled_from(PATHS))
    method = draw(st.sampled_from(["GET", "POST", "POST", "POST", "HEAD", "OPTIONS", "DELETE", "PUT"]))
    query = urlencode(draw(queries), errors="surrogatepass")
    body = b"" if method in ("GET", "HEAD") else draw(bodies)
    kind = "multipart/form-data; boundary=X" if body.startswith(b"--X") else "application/json"
    lines = {
        "Host": b"localhost",
        "Connection": b"close",
        "Content-Type": kind.encode(),
        "Content-Length": b"%d" % len(body),
    }
    lines |= draw(headers) if draw(st.integers(0, 3)) == 0 else {}
    head = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in lines.items())
    return f"{method} {path}{'?' if query else ''}{query} HTTP/1.1\r\n".encode() + head + b"\r\n" + body


SERVE = """
import sys
from pathlib import Path
from embedded.engine_client import Engine
from ryla_nodes.engines.embedded.server import connections, messages
from ryla_nodes.nodes import node_classes
messages.BODY_SECONDS, connections.REQUEST_SECONDS = 0.2, 0.5  # what does not come is waited for a moment only
with Engine(Path(sys.argv[1]), more=node_classes()) as engine:
    print(engine.url, flush=True)
    sys.stdin.read()
"""


class Served(Asks):
    """An engine in a process of its own, so that its memory is its own, too."""

    def __init__(self, process: subprocess.Popen[str], home: Path) -> None:
        assert process.stdout is not None
        self.url = process.stdout.readline().strip()
        self.files = EngineFiles(home)
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self._process = psutil.Process(process.pid)

    @property
    def memory(self) -> int:
        return int(self._process.memory_info().rss)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("fuzzed-home")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "RYLA_HOME": str(home)}
    with (home / "log").open("w") as log, subprocess.Popen(
        [sys.executable, "-c", SERVE, str(home)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True,
    ) as process:  # fmt: skip
        served = Served(process, home)
        for folder in ("input", "output", "temp"):
            place = served.files.folder(folder)
            (place / "folder").mkdir()
            (place / "seen.png").write_bytes(PNG)
            (place / "half.png").write_bytes(PNG[:40])
            (place / "text.png").write_text("no picture")
            (place / "big.png").write_bytes(png((12_000, 12_000)))
        served.wait(served.accept(picture()), timeout=120)  # torch is imported for it
        yield served
        process.communicate()


def test_any_request_gets_an_answer_that_is_no_failure_and_tells_no_path(engine: Served) -> None:
    before = engine.memory
    sent: list[int] = []

    @settings(
        max_examples=REQUESTS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def ask(request: bytes) -> None:
        answer = engine.send_bytes(request)
        sent.append(answer.status)
        assert answer.status < 500 and not engine.leaks(answer), (request[:2000], answer[:2000])
        if len(sent) % 50 == 0:
            drain(engine)
        if len(sent) % 500 == 0:
            log.warning("%d requests: %d MiB more", len(sent), (engine.memory - before) >> 20)

    ask()
    drain(engine)
    for path in ("/history", "/queue", "/api/jobs", "/object_info"):
        text = engine.http.get(path).raise_for_status().content
        assert not engine.leaks(text)
        json.loads(text, parse_constant=pytest.fail)
    after = engine.wait(engine.accept(picture(prefix="after")), timeout=60)
    assert after["status"]["status_str"] == "success"
    grown = engine.memory - before
    counts = {status: sent.count(status) for status in sorted(set(sent))}
    log.warning("%d requests, answers %s, %d MiB more", len(sent), counts, grown >> 20)
    assert len(sent) >= REQUESTS and sent.count(200) > REQUESTS // 20
    assert grown < GROWTH


def drain(engine: Served) -> None:
    """Let the jobs that wait end; one that takes long is cancelled."""
    for _ in range(200):
        if engine.get("/prompt")["exec_info"]["queue_remaining"] == 0:
            return
        time.sleep(0.05)
    engine.http.post("/queue", json={"clear": True}).raise_for_status()
    engine.http.post("/interrupt").raise_for_status()
