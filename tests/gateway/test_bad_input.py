"""Every bad request is refused with its reason, before any engine hears of it."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
import ryla_nodes
from gateway.served import Served, photo
from PIL import Image
from unit.fake_engine import FakeEngine

PROBLEM = "application/problem+json"
SECRETS = ("Traceback", "127.0.0.1", "site-packages", tempfile.gettempdir(), str(Path(ryla_nodes.__file__).parent))


def _refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    told: dict[str, Any] = answer.json()
    assert told["code"] == code and told["status"] == status, told
    assert told["title"] and told["detail"] and told["hint"] and told["type"] == f"urn:ryla:error:{code}"
    for secret in SECRETS:
        assert secret not in answer.text
    return told


@pytest.fixture(autouse=True)
def no_engine_hears_of_it(engine: FakeEngine) -> Any:
    before = len(engine.posts)
    yield
    assert len(engine.posts) == before


def _json(gateway: Served, body: str | bytes, kind: str = "application/json") -> httpx.Response:
    return gateway.http.post("/paint", content=body, headers={"content-type": kind})


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "nonsense",
        "[]",
        '"text"',
        "7",
        "null",
        b"\xff\xfe{}",
        '{"prompt": "a", "prompt": "b"}',
        '{"prompt": "a", "guidance": NaN}',
        '{"prompt": "a", "guidance": Infinity}',
        '{"prompt": "a", "guidance": 1e999}',
        '{"prompt": "a", "width": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"a":' * 50_000,
    ],
    ids=lambda body: str(body)[:24],
)
def test_malformed_json(gateway: Served, body: str | bytes) -> None:
    _refused(_json(gateway, body), 400, "invalid_request")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/png", "", "x"])
def test_other_types(gateway: Served, kind: str) -> None:
    _refused(_json(gateway, '{"prompt": "a"}', kind), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({}, "missing_parameter", "prompt is required"),
        ({"prompt": ""}, "invalid_parameter", "prompt is empty"),
        ({"prompt": None}, "missing_parameter", "prompt"),
        ({"prompt": 7}, "invalid_parameter", "prompt"),
        ({"prompt": ["a"]}, "invalid_parameter", "prompt"),
        ({"prompt": "a", "promt": "b"}, "unknown_parameter", 'did you mean "prompt"?'),
        ({"prompt": "a", "guidence_scale": 2}, "unknown_parameter", 'did you mean "guidance"?'),
        ({"prompt": "a", "\ud800": 2}, "unknown_parameter", ""),
        ({"prompt": "a", "guidance": 2.0, "guidance_scale": 2.0}, "invalid_parameter", "given twice"),
        ({"prompt": "a", "width": 100}, "invalid_parameter", "the nearest are 96 and 112"),
        ({"prompt": "a", "width": 48}, "invalid_parameter", "below the smallest, 64"),
        ({"prompt": "a", "width": 10**30}, "invalid_parameter", "above the largest, 256"),
        ({"prompt": "a", "width": "96"}, "invalid_parameter", "width"),
        ({"prompt": "a", "width": 96.5}, "invalid_parameter", "width"),
        ({"prompt": "a", "width": True}, "invalid_parameter", "width"),
        ({"prompt": "a", "fast": "yes"}, "invalid_parameter", "fast"),
        ({"prompt": "a", "fast": 1}, "invalid_parameter", "fast"),
        ({"prompt": "a", "sampler": "eular"}, "invalid_parameter", "euler"),
        ({"prompt": "a", "seed": -1}, "invalid_parameter", "seed"),
        ({"prompt": "a", "seed": 2**64}, "invalid_parameter", "seed"),
        ({"prompt": "a\ud800b"}, "invalid_parameter", "prompt"),
        ({"prompt": "x" * 100_000}, "invalid_parameter", "prompt"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_parameters(gateway: Served, fields: dict[str, Any], code: str, says: str) -> None:
    told = _refused(_json(gateway, json.dumps(fields)), 422, code)
    assert says in told["detail"] and told["problems"] and len(json.dumps(told)) < 4000
    assert "/workflows/paint" in told["hint"]


def test_every_fault_is_told(gateway: Served) -> None:
    answer = gateway.post("paint", prompt="a", width=100, guidance=11, sampler="x")
    assert {each["parameter"] for each in answer.json()["problems"]} == {"width", "guidance", "sampler"}


def _png_bomb() -> bytes:
    """A PNG that says it has 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _tiff() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "TIFF")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "unreadable_image"),
        (b"GIF89a", 422, "unreadable_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "unreadable_image"),
        (b"<!doctype html>", 422, "unreadable_image"),
        (photo((400, 400), "JPEG")[:1200], 422, "unreadable_image"),
        (photo((400, 400))[:-40], 422, "unreadable_image"),
        (_tiff(), 422, "unreadable_image"),
        (_png_bomb(), 413, "image_too_large"),
    ],
    ids=["empty", "gif", "svg", "html", "jpeg cut", "png cut", "tiff", "bomb"],
)
@pytest.mark.parametrize("how", ["base64", "file"])
def test_bad_pictures(gateway: Served, data: bytes, status: int, code: str, how: str) -> None:
    if how == "file":
        files = {"reference_image": ("/etc/passwd", data, "image/png")}
        answer = gateway.http.post("/portrait", data={"prompt": "a"}, files=files)
    else:
        text = base64.b64encode(data).decode()
        answer = gateway.post("portrait", prompt="a", reference_image=text)
        # Of nothing there is nothing to decode.
        code = "invalid_parameter" if not data and answer.json()["code"] == "invalid_parameter" else code
    _refused(answer, status, code)
    assert not list((gateway.options.state / "uploads").iterdir())


@pytest.mark.parametrize(
    "text",
    ["%%%", "data:image/png,abc", "data:image/png;base64,%%%", "/etc/passwd", "http://127.0.0.1/x.png", "\0", "é"],
)
def test_text_that_is_no_picture(gateway: Served, text: str) -> None:
    _refused(gateway.post("portrait", prompt="a", reference_image=text), 422, "unreadable_image")


def test_a_number_is_no_picture(gateway: Served) -> None:
    _refused(gateway.post("portrait", prompt="a", reference_image=7), 422, "invalid_parameter")


def test_a_body_beyond_the_bound_is_refused_while_it_is_read(gateway: Served) -> None:
    def endless() -> Any:
        for _ in range(gateway.options.limits.body_bytes // 2**20 + 2):
            yield b'"' * 2**20

    answer = gateway.http.post("/paint", content=endless(), headers={"content-type": "application/json"})
    _refused(answer, 413, "body_too_large")


def test_100_mb_are_refused_before_they_are_sent(gateway: Served) -> None:
    address = gateway.http.base_url
    with socket.create_connection((address.host, address.port or 80), timeout=10) as raw:
        head = f"POST /portrait HTTP/1.1\r\nHost: {address.host}\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: {100 * 2**20}\r\n\r\n".encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"junk", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n', "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_malformed_forms(gateway: Served, body: bytes, kind: str) -> None:
    answer = gateway.http.post("/paint", content=body, headers={"content-type": kind})
    assert answer.status_code in (400, 422) and answer.headers["content-type"] == PROBLEM, answer.text


def test_a_field_that_is_there_twice_in_a_form(gateway: Served) -> None:
    answer = gateway.http.post("/paint", files=[("prompt", (None, "a")), ("prompt", (None, "b"))])
    _refused(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "no_such_route"),
        ("POST", "/flux-dev/../../etc/passwd", 404, "no_such_route"),
        ("GET", "/paint", 405, "method_not_allowed"),
        ("PUT", "/jobs", 405, "method_not_allowed"),
        ("GET", "/workflows/nothing", 404, "unknown_workflow"),
        ("GET", "/jobs?limit=many", 400, "invalid_request"),
    ],
)
def test_addresses_that_are_none(gateway: Served, method: str, path: str, status: int, code: str) -> None:
    _refused(gateway.http.request(method, path), status, code)
