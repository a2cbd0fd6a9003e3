"""Bad graphs get the same answer from the embedded engine as from a real ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from comfyui.conftest import StartComfyUI
from comfyui.process import ComfyUI
from embedded.engine_client import PACK, Engine, node, picture

RED = node("EmptyImage", width=16, height=16, batch_size=1, color=0xFF0000)
CHECKED = {"even": 0, "small": 0, "word": "a", "many": "1"}


def checked(**inputs: Any) -> dict[str, Any]:
    return {"1": node("RylaTest_Checked", **(CHECKED | inputs))}


def changed(**inputs: Any) -> dict[str, Any]:
    """``picture()`` with other inputs of its first node; None takes one away."""
    graph = picture()
    merged = graph["1"]["inputs"] | inputs
    graph["1"]["inputs"] = {name: value for name, value in merged.items() if value is not None}
    return graph


# Name -> graph. Those of NEWER are answered in this way by later versions than 0.3.64 only.
GRAPHS: dict[str, Any] = {
    "no nodes": {},
    "no output node": {"1": RED},
    "required input missing": changed(width=None),
    "two inputs missing": changed(width=None, color=None),
    "too small": changed(width=0),
    "too big": changed(width=20000),
    "not a number": changed(width="wide"),
    "a number as text": changed(width="x16", height="16"),
    "empty link": changed(width=[]),
    "link of three": changed(width=["9", 0, 0]),
    "link to no node": {**picture(), "2": node("ImageInvert", image=["9", 0])},
    "output's link to no node": {"3": node("SaveImage", images=["9", 0], filename_prefix="x")},
    "link to no slot": {**picture(), "2": node("ImageInvert", image=["1", 5])},
    "output's link to no slot": {"1": RED, "3": node("SaveImage", images=["1", 5], filename_prefix="x")},
    "link of another type": {**picture(), "9": node("PrimitiveInt", value=1), "2": node("ImageInvert", image=["9", 0])},
    "no inputs at all": {"1": RED, "3": {"class_type": "SaveImage"}},
    "one good output, one bad": {**picture(), "4": node("SaveImage", images=["2", 0])},
    "two bad outputs": {
        **changed(width=0),
        "4": node("PreviewImage", images=["2", 0]),
    },
    "no such picture": {"1": node("LoadImage", image="absent.png"), "2": node("PreviewImage", images=["1", 0])},
    "own check": checked(even=3),
    "own check says no": checked(word="refuse"),
    "own check raises": checked(even=13),
    "own check frees of the range": checked(even=12),
    "but not the other input": checked(small=11),
    "own check and a range": checked(even=3, small=11),
    "own check lacks an input": {"1": node("RylaTest_Checked", small=0, word="a", many="1")},
    "wrapped value": checked(small={"__value__": 11}),
    "any type takes all": {"1": node("RylaTest_Texts", text="a", count=1), "2": node("RylaTest_Show", value=["1", 1])},
    "unknown inputs are ignored": {**picture(), "1": node("EmptyImage", **RED["inputs"], colour=5)},
}
NEWER: dict[str, Any] = {
    "unknown class": {**picture(), "2": node("NoSuchNode", image=["1", 0])},
    "no class": {**picture(), "2": {"inputs": {}, "_meta": {"title": "Mine"}}},
    "cycle": {
        "1": node("ImageInvert", image=["2", 0]),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("SaveImage", images=["2", 0], filename_prefix="x"),
    },
    "own cycle": {"1": node("ImageInvert", image=["1", 0]), "3": node("PreviewImage", images=["1", 0])},
    "value not in list": checked(many="30"),
    "value not in short list": {
        "1": RED,
        "2": node("ImageScale", image=["1", 0], upscale_method="magic", width=8, height=8, crop="disabled"),
        "3": node("PreviewImage", images=["2", 0]),
    },
}
REQUESTS: dict[str, dict[str, Any]] = {
    "no prompt": {"client_id": "x"},
    "only one target": {
        "prompt": {**picture(), "4": node("SaveImage", images=["2", 0])},
        "partial_execution_targets": ["3"],
    },
    "own check in an inner node": {
        "prompt": {**checked(even=13), "2": node("RylaTest_Show", value=["1", 0])},
        "partial_execution_targets": ["2"],
    },
    "no such target": {"prompt": picture(), "partial_execution_targets": ["9"]},
}
NEWER_REQUESTS: dict[str, dict[str, Any]] = {
    "prompt id is no UUID": {"prompt": picture(), "prompt_id": "mine"},
    "prompt id in capitals": {"prompt": picture(), "prompt_id": "0C2E9B6E-5F39-4E0B-8E0B-3B1F9C1A2B3C"},
    "prompt id is a number": {"prompt": picture(), "prompt_id": 5},
}


@pytest.fixture(scope="module")
def real(start_comfyui: StartComfyUI) -> ComfyUI:
    return start_comfyui(route="none", packs=(PACK,))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home")) as started:
        yield started


def compared(value: Any) -> Any:
    """An answer without what is each server's own: ids, tracebacks, the order of sets."""
    if isinstance(value, dict):
        own = ("traceback", "prompt_id", "number")
        return {key: compared(each) for key, each in value.items() if key not in own}
    if isinstance(value, list):
        return sorted((compared(each) for each in value), key=str)
    return value


def answer(server: ComfyUI | Engine, body: dict[str, Any]) -> tuple[int, Any]:
    response = server.http.post("/prompt", json=body)
    return response.status_code, compared(response.json())


def same(ours: tuple[int, Any], theirs: tuple[int, Any]) -> None:
    for side in (ours, theirs):
        if side[1].get("error"):
            side[1]["error"]["details"] = sorted(side[1]["error"]["details"].splitlines())
    assert ours == theirs


@pytest.mark.parametrize("name", GRAPHS)
def test_bad_graphs(name: str, real: ComfyUI, engine: Engine) -> None:
    same(answer(engine, {"prompt": GRAPHS[name]}), answer(real, {"prompt": GRAPHS[name]}))


@pytest.mark.parametrize("name", NEWER)
def test_bad_graphs_of_newer_versions(name: str, real: ComfyUI, engine: Engine) -> None:
    if real.install.version <= (0, 3, 64):
        pytest.skip("Does not apply: ComfyUI 0.3.64 answers these in another way")
    ours, theirs = (answer(server, {"prompt": NEWER[name]}) for server in (engine, real))
    if name == "unknown class":
        told = ours[1]["error"].pop("message")
        assert told.startswith("Node 'NoSuchNode' not found: ") and "EmptyImage, EmptyLatentImage, " in told
        theirs[1]["error"].pop("message")
    same(ours, theirs)


@pytest.mark.parametrize("name", REQUESTS)
def test_bad_requests(name: str, real: ComfyUI, engine: Engine) -> None:
    same(answer(engine, REQUESTS[name]), answer(real, REQUESTS[name]))


@pytest.mark.parametrize("name", NEWER_REQUESTS)
def test_bad_prompt_ids(name: str, real: ComfyUI, engine: Engine) -> None:
    if real.install.version <= (0, 3, 64):
        pytest.skip("Does not apply: ComfyUI 0.3.64 takes any prompt_id")
    same(answer(engine, NEWER_REQUESTS[name]), answer(real, NEWER_REQUESTS[name]))


def test_the_table_holds_good_and_bad(engine: Engine) -> None:
    """The comparison would be worthless if every graph got the same answer."""
    statuses = [answer(engine, {"prompt": graph})[0] for graph in GRAPHS.values()]
    assert statuses.count(200) >= 4 and statuses.count(400) >= 20
