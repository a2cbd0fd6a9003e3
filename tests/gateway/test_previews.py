"""Unfinished pictures in a job's events."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from gateway.served import Served
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg

LATER = {"prefer": "respond-async"}


def _events(gateway: Served, job: str, query: str = "", last: str = "") -> list[tuple[str, str, dict[str, Any]]]:
    """(id, kind, data) of each event until the end."""
    found, fields = [], {}
    headers = {"last-event-id": last} if last else {}
    with gateway.http.stream("GET", f"/jobs/{job}/events{query}", headers=headers) as answer:
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            else:
                found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
                fields = {}
    return found


def test_they_come_when_asked_for_a_few_a_second_and_are_not_kept(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 1.6
    engine.faults.add("preview")
    job = gateway.post("paint", prompt="slow", headers=LATER).json()["id"]
    began = time.monotonic()
    events = _events(gateway, job, "?preview=1")
    previews = [(number, data) for number, kind, data in events if kind == "preview"]
    assert 1 <= len(previews) <= (time.monotonic() - began) / 0.3 + 1
    for number, data in previews:
        head, _, encoded = data["image"].partition(",")
        assert not number and head == "data:image/jpeg;base64" and base64.b64decode(encoded) == jpeg("preview")
    assert events[-1][1] == "done"
    assert "preview" not in {kind for _, kind, _ in _events(gateway, job, "?preview=1")}


def test_nobody_else_gets_them(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 0.8
    engine.faults.add("preview")
    job = gateway.post("paint", prompt="slow", headers=LATER).json()["id"]
    assert "preview" not in {kind for _, kind, _ in _events(gateway, job)}


def test_events_go_on_behind_the_last_number(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 0.8
    engine.faults.add("preview")
    job = gateway.post("paint", prompt="slow", headers=LATER).json()["id"]
    numbers = [number for number, _, _ in _events(gateway, job, "?preview=1") if number]
    assert [number for number, _, _ in _events(gateway, job, last=numbers[1])] == numbers[2:]
