"""A request and its picture."""

from __future__ import annotations

import base64
import io

import httpx
import pytest
from gateway.served import Served, photo, until
from PIL import Image
from unit.fake_engine import FakeEngine


def _format(data: bytes) -> str | None:
    return Image.open(io.BytesIO(data)).format


def test_a_post_gives_a_real_jpeg_with_true_headers(gateway: Served, engine: FakeEngine) -> None:
    answer = gateway.post("paint", prompt="a fox", seed=7)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    assert _format(answer.content) == "JPEG"
    assert answer.headers["x-seed"] == "7"
    assert answer.headers["x-prompt-id"] == engine.executions[-1]
    assert engine.graphs[-1]["1"]["inputs"]["text"] == "a fox"
    assert 0 <= float(answer.headers["x-execution-time-sec"]) < 5
    assert 0 <= float(answer.headers["x-queue-time-sec"]) < 5
    assert answer.headers["x-gpu-type"] == "CPU"
    assert {part.split(";")[0] for part in answer.headers["server-timing"].split(", ")} == {
        "queue",
        "execution",
        "fetch",
    }
    for absent in ("x-cost-usd", "x-lora-used", "x-face-similarity", "server"):
        assert absent not in answer.headers


def test_a_random_seed_is_told(gateway: Served, engine: FakeEngine) -> None:
    answer = gateway.post("paint", prompt="a fox")
    assert answer.headers["x-seed"] == str(engine.graphs[-1]["1"]["inputs"]["seed"])


def test_accept_chooses_the_format(gateway: Served) -> None:
    for kind, name in (("image/png", "PNG"), ("image/webp", "WEBP"), ("*/*", "JPEG"), ("image/*;q=0.2", "JPEG")):
        answer = gateway.post("paint", prompt="a fox", headers={"accept": kind})
        assert _format(answer.content) == name
        assert answer.headers["content-type"] == f"image/{name.lower()}"
    answer = gateway.post("paint", prompt="a fox", headers={"accept": "text/html"})
    assert answer.status_code == 406 and answer.json()["code"] == "not_acceptable"


def test_json_tells_the_same_with_a_link(gateway: Served) -> None:
    told = gateway.post("paint", prompt="a fox", seed=3, headers={"accept": "application/json"}).json()
    assert told["state"] == "succeeded" and told["seed"] == 3
    assert told["parameters"] == {
        "prompt": "a fox",
        "width": 64,
        "guidance": 3.5,
        "sampler": "euler",
        "fast": False,
        "seed": 3,
    }
    picture = gateway.http.get(told["pictures"][0]["href"])
    assert picture.headers["content-type"] == "image/jpeg" and len(picture.content) == told["pictures"][0]["bytes"]
    assert picture.headers["x-seed"] == "3"


def test_a_photo_comes_as_base64_data_url_or_file(gateway: Served, engine: FakeEngine) -> None:
    data = photo()
    text = base64.b64encode(data).decode()
    for value in (text, f"data:image/png;base64,{text}", f"data:image/png;name=a.png;base64,{text}"):
        answer = gateway.post("portrait", prompt="a fox", reference_image=value)
        assert answer.status_code == 200, answer.text
    answer = gateway.http.post(
        "/portrait", data={"prompt": "a fox", "width": "96", "fast": "yes"}, files={"reference_image": ("x.png", data)}
    )
    assert answer.status_code == 200, answer.text
    assert engine.graphs[-1]["1"]["inputs"]["width"] == 96
    assert set(engine.uploads.values()) == {data}
    until(lambda: not list((gateway.options.state / "uploads").iterdir()))


def test_a_client_that_goes_away_cancels_its_job_unless_it_asked_for_keeping(
    gateway: Served, engine: FakeEngine
) -> None:
    engine.seconds = 3.0
    for headers, state in (({}, "cancelled"), ({"prefer": "keep"}, "succeeded")):
        before = len(engine.posts)
        with pytest.raises(httpx.ReadTimeout):
            gateway.http.post("/paint", json={"prompt": "gone"}, headers=headers, timeout=0.6)
        until(lambda count=before: len(engine.posts) > count)
        job = gateway.http.get("/jobs").json()["jobs"][0]
        until(lambda link=job["links"]["self"], end=state: gateway.http.get(link).json()["state"] == end)
        assert not engine.running or state == "succeeded"


def test_the_state_of_an_engine_that_ends_with_an_error_is_told_without_its_address(
    gateway: Served, engine: FakeEngine
) -> None:
    engine.faults.add("node error")
    answer = gateway.post("paint", prompt="a fox", seed=5)
    told = answer.json()
    assert answer.status_code == 502 and answer.headers["content-type"] == "application/problem+json"
    assert told["code"] == "node_failed" and told["seed"] == 5 and told["prompt_id"] == engine.posts[-1]
    assert "127.0.0.1" not in answer.text and "Traceback" not in answer.text
    assert gateway.http.get(f"/jobs/{told['job_id']}/result").status_code == 502
