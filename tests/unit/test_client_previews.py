"""Preview pictures in the websocket's binary frames."""

from __future__ import annotations

import json

import pytest
from ryla_nodes.client import Client, Preview, from_graph
from ryla_nodes.client.websocket import parse_preview
from unit.fake_engine import FakeEngine, graph
from unit.fake_engine_parts import jpeg, png


def _with_metadata(told: bytes, picture: bytes) -> bytes:
    return (4).to_bytes(4, "big") + len(told).to_bytes(4, "big") + told + picture


def test_both_kinds_of_frames_are_read() -> None:
    plain = b"\0\0\0\x01\0\0\0\x02" + png("x")
    assert parse_preview(plain) == Preview(png("x"), "image/png")
    told = json.dumps({"image_type": "image/jpeg", "prompt_id": "7", "node_id": "1"}).encode()
    assert parse_preview(_with_metadata(told, jpeg("x"))) == Preview(jpeg("x"), "image/jpeg", "7")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\x01\0\0\0\x01",
        b"\0\0\0\x01\0\0\0\x09picture",
        b"\0\0\0\x03text",
        _with_metadata(b"{", b"picture"),
        _with_metadata(b'{"image_type": "image/svg+xml"}', b"picture"),
        _with_metadata(b"[]", b"picture"),
        b"\0\0\0\x04\xff\xff\xff\xff{}",
    ],
)
def test_what_is_none_is_passed_over(frame: bytes) -> None:
    assert parse_preview(frame) is None


@pytest.mark.parametrize("fault", ["preview", "preview with metadata"])
def test_they_are_passed_on_when_asked_for(fault: str) -> None:
    seen: list[Preview] = []
    with FakeEngine(fault, seconds=0.2) as engine, Client(engine.url) as client:
        prompt = from_graph(graph(), ["3"])
        assert client.run(prompt, on_preview=seen.append).ok
        assert client.run(prompt).ok
    assert 1 <= len(seen) <= 4 and {each.data for each in seen} == {jpeg("preview")}
    assert {each.prompt_id for each in seen} == ({""} if fault == "preview" else {engine.executions[0]})
