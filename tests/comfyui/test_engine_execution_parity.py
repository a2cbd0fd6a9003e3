"""The embedded engine runs graphs as a real ComfyUI does: same outputs, same messages, same pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui.conftest import StartComfyUI
from comfyui.process import ComfyUI
from embedded.engine_client import PACK, Engine, node, picture
from PIL import Image
from websockets.sync.client import connect

Server = ComfyUI | Engine


def show(value: Any, **others: Any) -> dict[str, Any]:
    return node("RylaTest_Show", value=value, **others)


def text(value: str, fail: int = 0) -> dict[str, Any]:
    return node("RylaTest_Text", text=value, fail=fail)


GRAPHS: dict[str, dict[str, Any]] = {
    "hidden values": {"1": text("a"), "2": show(["1", 0], note="n")},
    "list to single inputs": {"1": node("RylaTest_Texts", text="t", count=3), "2": show(["1", 0], other=["1", 1])},
    "two lists of unequal length": {
        "1": node("RylaTest_Texts", text="t", count=3),
        "2": node("RylaTest_Texts", text="u", count=2),
        "3": show(["1", 0], other=["2", 0]),
    },
    "list to a node that takes lists": {
        "1": node("RylaTest_Texts", text="t", count=3),
        "2": node("RylaTest_Join", texts=["1", 0], glue="-"),
        "3": show(["2", 0]),
    },
    "lazy, first": {
        "1": text("a"),
        "2": text("b", fail=1),
        "3": node("RylaTest_Choose", first=True, a=["1", 0], b=["2", 0]),
        "4": show(["3", 0]),
    },
    "lazy, second": {
        "1": text("a", fail=1),
        "2": text("b"),
        "3": node("RylaTest_Choose", first=False, a=["1", 0], b=["2", 0]),
        "4": show(["3", 0]),
    },
    "failure": {"1": text("bad", fail=1), "2": show(["1", 0])},
    "blocked": {"1": text("bad", fail=2), "2": node("RylaTest_Text", text=["1", 0]), "3": show(["2", 0])},
    "state in a class": {"1": text("bad", fail=3), "2": show(["1", 0])},
    "cached within a job": {
        "1": node("RylaTest_Printed", text="x"),
        "2": node("RylaTest_Printed", text="x"),
        "3": show(["1", 0], other=["2", 0]),
    },
    "converted constants": {"1": node("RylaTest_Texts", text=7, count="2"), "2": show(["1", 0], note=5)},
}


@pytest.fixture(scope="module")
def real(start_comfyui: StartComfyUI) -> ComfyUI:
    return start_comfyui(route="none", packs=(PACK,))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home")) as started:
        yield started


def conversation(server: Server, graph: dict[str, Any], client: str) -> list[tuple[str, Any]]:
    """Everything that a client hears from submitting ``graph`` to the end of the job, in order."""
    url = f"{server.url.replace('http', 'ws')}/ws?clientId={client}"
    with connect(url, proxy=None) as socket:
        json.loads(socket.recv(timeout=10))
        extra = {"extra_pnginfo": {"workflow": {"id": "w"}}, "api_key_comfy_org": "secret"}
        answer = server.submit(graph, client_id=client, extra_data=extra)
        assert answer.status_code == 200, answer.text
        heard: list[tuple[str, Any]] = []
        while heard[-1:] != [("executing", None)]:
            message = json.loads(socket.recv(timeout=30))
            if message["type"] not in ("status", "progress_state"):
                heard.append(told(message))
    return heard


def told(message: dict[str, Any]) -> tuple[str, Any]:
    """The part of a message that does not depend on the server or the time."""
    kind, data = message["type"], message["data"]
    if kind == "executing":
        return kind, data["node"]
    if kind == "executed":
        return kind, (data["node"], data["output"])
    if kind == "execution_error":
        parts = ("node_id", "node_type", "exception_type", "exception_message", "current_inputs")
        return kind, (*(str(data[part]) for part in parts), sorted(data["executed"]))
    if kind == "execution_cached":
        return kind, sorted(data["nodes"])
    return kind, None


@pytest.mark.parametrize("name", GRAPHS)
def test_a_client_hears_the_same(name: str, real: ComfyUI, engine: Engine) -> None:
    ours, theirs = (conversation(server, GRAPHS[name], "parity") for server in (engine, real))
    if name == "state in a class":  # each names its own class in its own words
        assert [kind for kind, _ in ours] == [kind for kind, _ in theirs]
        assert "AttributeError" in str(ours) and "AttributeError" in str(theirs)
        return
    assert ours == theirs


def test_a_client_hears_the_same_of_what_is_cached(real: ComfyUI, engine: Engine) -> None:
    graph = {"1": node("RylaTest_Texts", text="cached", count=2), "2": show(["1", 0]), "3": show(["1", 1])}
    changed = {**graph, "3": show(["1", 1], note="other")}
    for each in (graph, graph, changed, GRAPHS["hidden values"], graph):
        ours, theirs = (conversation(server, each, "cache") for server in (engine, real))
        # ComfyUI runs independent outputs in no fixed order.
        assert sorted(ours, key=str) == sorted(theirs, key=str)


@pytest.mark.parametrize("prints", [("a#1", "a#2", "b", "a"), ("nan", "nan")])
def test_fingerprints_decide_what_runs_again(prints: tuple[str, ...], real: ComfyUI, engine: Engine) -> None:
    for each in prints:
        graph = {"1": node("RylaTest_Printed", text=each), "2": show(["1", 0])}
        assert conversation(engine, graph, "print") == conversation(real, graph, "print")


def pixels(server: Server, graph: dict[str, Any], output: str = "9") -> list[np.ndarray]:
    """The pictures that node ``output`` saved."""
    outputs = server.succeed(graph)
    saved = outputs[output]["images"]
    files = [server.http.get("/view", params=image).raise_for_status().content for image in saved]
    return [np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in files]


def upload(servers: tuple[Server, ...], name: str, data: bytes) -> None:
    for server in servers:
        server.http.post("/upload/image", files={"image": (name, data)}).raise_for_status()


def encoded(mode: str, kind: str, **options: Any) -> bytes:
    """A picture of noise in a mode, as a file."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    picture = Image.fromarray(noise, "RGBA").convert(mode)
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("RGB", "PNG", exif=exif)


FILES: dict[str, Callable[[], bytes]] = {
    "rgb.png": lambda: encoded("RGB", "PNG"),
    "rgba.png": lambda: encoded("RGBA", "PNG"),
    "grey.png": lambda: encoded("L", "PNG"),
    "palette.png": lambda: encoded("P", "PNG"),
    "turned.png": _turned,
    "picture.webp": lambda: encoded("RGB", "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FILES)
def test_pictures_are_loaded_the_same(name: str, real: ComfyUI, engine: Engine) -> None:
    upload((real, engine), name, FILES[name]())
    graph = {"1": node("LoadImage", image=name), "2": node("RylaTest_Numbers", tensor=["1", 0])}
    # Of a picture without alpha, versions of ComfyUI give masks of different sizes, all zero.
    if not name.endswith("webp"):
        graph["3"] = node("RylaTest_Numbers", tensor=["1", 1])
    for channel in ("red", "green", "blue", *(("alpha",) if name == "rgba.png" else ())):
        graph |= {
            channel: node("LoadImageMask", image=name, channel=channel),
            f"of {channel}": node("RylaTest_Numbers", tensor=[channel, 0]),
        }
    ours, theirs = (server.succeed(graph) for server in (engine, real))
    # Newer versions decode with FFmpeg, which rounds some files' colours in its own way.
    tolerance = 0.001 if real.install.version <= (0, 3, 64) else 0.011
    for output in theirs:
        assert ours[output]["shape"] == theirs[output]["shape"]
        difference = np.subtract(ours[output]["values"], theirs[output]["values"])
        assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
@pytest.mark.parametrize(("width", "height", "crop"), [(45, 33, "disabled"), (16, 40, "center"), (0, 10, "disabled")])
def test_pictures_are_scaled_the_same(
    method: str, width: int, height: int, crop: str, real: ComfyUI, engine: Engine
) -> None:
    upload((real, engine), "rgb.png", FILES["rgb.png"]())
    graph = {
        "1": node("LoadImage", image="rgb.png"),
        "2": node("ImageScale", image=["1", 0], upscale_method=method, width=width, height=height, crop=crop),
        "9": node("SaveImage", images=["2", 0], filename_prefix="scale"),
    }
    ours, theirs = (pixels(server, graph)[0] for server in (engine, real))
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_same_picture_is_saved_with_the_same_text(real: ComfyUI, engine: Engine, tmp_path: Path) -> None:
    graph = picture(color=0x123456, prefix="sub/of %width%x%height%")
    saved = []
    for server in (engine, real):
        image = server.succeed(graph, extra_data={"extra_pnginfo": {"workflow": {"nodes": []}}})["3"]["images"][0]
        file = Image.open(BytesIO(server.http.get("/view", params=image).content))
        saved.append((image, file.text, np.asarray(file).tolist()))
    assert saved[0] == saved[1]
