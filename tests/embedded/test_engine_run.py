"""Running graphs on the embedded engine: outputs, caching, failures, cancelling."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded.engine_client import Engine, message, new_id, node, nodes, picture, slow
from PIL import Image
from ryla_nodes.engines.schema import io


class OutOfMemoryError(RuntimeError):
    """As torch.OutOfMemoryError, which is known by its name."""


class Speechless(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise LookupError("no words")


class Trouble(io.ComfyNode):
    """Fails in ways that an engine must survive."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("RylaTest_Trouble", inputs=[io.String.Input("kind")], is_output_node=True)

    @classmethod
    def execute(cls, kind: str) -> Any:
        if kind == "exit":
            sys.exit(3)
        if kind == "speechless":
            raise Speechless
        if kind == "memory":
            raise OutOfMemoryError("CUDA out of memory")
        return {
            "unserialisable": io.NodeOutput(ui={"values": [object()]}),
            "another type": 5,
            "expand": io.NodeOutput(expand={}),
        }[kind]


class Lost(io.ComfyNode):
    """Gives fewer values than it has outputs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("RylaTest_Lost", inputs=[], outputs=[io.Int.Output(), io.Int.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(1)


class Save(io.ComfyNode):
    """Saves as our node does, by its name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sockets = {"inputs": [io.Image.Input("images")], "outputs": [io.Image.Output()]}
        return io.Schema("RYLA_SaveImage", is_output_node=True, **sockets)

    @classmethod
    def execute(cls, images: Any) -> io.NodeOutput:
        return io.NodeOutput(images, ui={"text": ["saved"]})


class Score(io.ComfyNode):
    """Fails to score."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("RYLA_FaceSimilarity", inputs=[io.Image.Input("image")], is_output_node=True)

    @classmethod
    def execute(cls, image: Any) -> io.NodeOutput:
        raise ValueError("no face")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home"), more=[Trouble, Lost, Save, Score]) as started:
        yield started


def trouble(kind: str) -> dict[str, Any]:
    return {"1": node("RylaTest_Trouble", kind=kind)}


def saved(engine: Engine, graph: dict[str, Any], **fields: Any) -> Image.Image:
    """The picture that node 3 saved, fetched by HTTP."""
    image = engine.succeed(graph, **fields)["3"]["images"][0]
    return Image.open(BytesIO(engine.http.get("/view", params=image).raise_for_status().content))


def test_a_graph_makes_a_picture_that_holds_the_graph(engine: Engine) -> None:
    graph = picture(color=0x112233, prefix="made/here", size=24)
    file = saved(engine, graph, extra_data={"extra_pnginfo": {"workflow": {"id": 7}}})
    assert file.format == "PNG" and file.size == (24, 24)
    assert (np.asarray(file) == (0xEE, 0xDD, 0xCC)).all()
    assert json.loads(file.text["prompt"]) == graph  # type: ignore[attr-defined]
    assert json.loads(file.text["workflow"]) == {"id": 7}  # type: ignore[attr-defined]
    assert (engine.files.output / "made" / "here_00001_.png").is_file()


def test_files_are_numbered_on_and_batches_make_several(engine: Engine) -> None:
    graph = picture(color=1, prefix="numbered")
    graph["1"]["inputs"]["batch_size"] = 2
    names = [image["filename"] for image in engine.succeed(graph)["3"]["images"]]
    assert names == ["numbered_00001_.png", "numbered_00002_.png"]
    assert engine.succeed(picture(color=2, prefix="numbered"))["3"]["images"][0]["filename"] == "numbered_00003_.png"


def test_a_score_that_fails_takes_no_picture_with_it(engine: Engine) -> None:
    """As older workflows have it: both take the picture from one node, and the score stands first."""
    graph = {
        "score": node("RYLA_FaceSimilarity", image=["1", 0]),
        "1": picture(color=5)["1"],
        "save": node("RYLA_SaveImage", images=["1", 0]),
    }
    entry = engine.run(graph)
    assert entry["status"]["status_str"] == "error"
    assert entry["outputs"] == {"save": {"text": ["saved"]}}


def test_previews_go_to_temp(engine: Engine) -> None:
    graph = {"1": picture()["1"], "2": node("PreviewImage", images=["1", 0])}
    image = engine.succeed(graph)["2"]["images"][0]
    assert image["type"] == "temp" and (engine.files.temp / image["filename"]).is_file()


def test_the_same_graph_again_runs_nothing_and_reports_the_same_file(engine: Engine) -> None:
    graph = picture(color=3, prefix="again")
    first, second = engine.run(graph), engine.run(graph)
    assert message(first, "execution_cached")["nodes"] == []
    assert message(second, "execution_cached")["nodes"] == ["1", "2", "3"]
    assert first["outputs"] == second["outputs"] != {}
    assert not (engine.files.output / "again_00002_.png").exists()


def test_only_what_a_change_touches_runs_again(engine: Engine) -> None:
    graph = {
        "1": node("RylaTest_Text", text="kept"),
        "2": node("RylaTest_Text", text="changed"),
        "3": node("RylaTest_Show", value=["1", 0], other=["2", 0]),
    }
    engine.succeed(graph)
    nodes.Text.runs.clear()
    graph["2"]["inputs"]["text"] = "anew"
    assert engine.succeed(graph)["3"]["values"] == ["kept", "anew", "default"]
    assert nodes.Text.runs == ["anew"]


def test_a_changed_input_file_is_loaded_again(engine: Engine) -> None:
    graph = {
        "1": node("LoadImage", image="changing.png"),
        "3": node("SaveImage", images=["1", 0], filename_prefix="loaded"),
    }
    for grey in (10, 200):
        Image.new("RGB", (8, 8), (grey,) * 3).save(engine.files.input / "changing.png")
        assert np.asarray(saved(engine, graph))[0, 0, 0] == grey


@pytest.mark.parametrize("wish", ["free_memory", "unload_models"])
def test_freeing_forgets_what_was_kept(engine: Engine, wish: str) -> None:
    graph = picture(color=4, prefix="freed")
    busy = engine.accept(slow(steps=20, text=wish))
    engine.wait_until_running(busy)
    engine.accept(graph)
    engine.http.post("/free", json={wish: True}).raise_for_status()  # seen to after the running job
    engine.wait(busy)
    engine.succeed(graph)
    assert message(engine.run(graph), "execution_cached")["nodes"] == ["1", "2", "3"]
    engine.http.post("/free", json={wish: False}).raise_for_status()
    assert message(engine.run(graph), "execution_cached")["nodes"] == ["1", "2", "3"]
    engine.http.post("/free", json={wish: True}).raise_for_status()
    assert message(engine.run(graph), "execution_cached")["nodes"] == []


def test_a_failing_node_is_named_with_its_error(engine: Engine) -> None:
    graph = {"1": node("RylaTest_Text", text="bad", fail=1), "2": node("RylaTest_Show", value=["1", 0])}
    entry = engine.run(graph)
    assert entry["status"]["status_str"] == "error" and entry["status"]["completed"] is False
    error = message(entry, "execution_error")
    assert (error["node_id"], error["node_type"], error["exception_type"]) == ("1", "RylaTest_Text", "ValueError")
    assert error["exception_message"] == "no bad\n"
    assert error["current_inputs"] == {"text": ["bad"], "fail": [1]}
    assert any("in execute" in line for line in error["traceback"])
    assert entry["outputs"] == {}


def test_running_out_of_memory_is_told_and_gives_everything_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    unloaded = []
    monkeypatch.setattr(engine._executor, "_unload_models", lambda: unloaded.append(True))
    graph = {**picture(color=5), "4": node("RylaTest_Trouble", kind="memory")}
    error = message(engine.run(graph), "execution_error")
    assert error["exception_type"].endswith("OutOfMemoryError")
    assert "CUDA out of memory" in error["exception_message"] and "batch_size" in error["exception_message"]
    assert unloaded == [True] and error["current_outputs"] == []


@pytest.mark.parametrize(
    ("graph", "kind", "words"),
    [
        (trouble("unserialisable"), "TypeError", "JSON"),
        (trouble("another type"), "TypeError", "returned a int"),
        (trouble("expand"), "TypeError", "expand"),
        ({"1": node("RylaTest_Lost"), "2": node("RylaTest_Show", value=["1", 1])}, "TypeError", "1 values for its 2"),
    ],
)
def test_what_a_node_may_not_return(engine: Engine, graph: dict[str, Any], kind: str, words: str) -> None:
    error = message(engine.run(graph), "execution_error")
    assert error["exception_type"] == kind and words in error["exception_message"]
    assert engine.get("/history")  # which can still be told


def test_a_node_that_exits_fails_its_job_and_not_the_worker(engine: Engine) -> None:
    error = message(engine.run(trouble("exit")), "execution_error")
    assert error["exception_type"] == "SystemExit"
    engine.succeed(picture(color=6))


def test_an_error_that_cannot_be_shown_fails_its_job_and_not_the_worker(engine: Engine) -> None:
    assert message(engine.run(trouble("speechless")), "execution_error")["exception_type"].endswith("Speechless")
    engine.succeed(picture(color=12))


def test_memory_that_cannot_be_given_back_does_not_end_the_worker(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._executor, "_unload_models", lambda: 1 / 0)
    engine.http.post("/free", json={"unload_models": True}).raise_for_status()
    engine.succeed(picture(color=13))


def test_a_failure_outside_of_nodes_fails_the_job_and_not_the_worker(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = picture(color=7)
    with monkeypatch.context() as broken:
        broken.setattr(engine._executor.cache, "begin", lambda keys: 1 / 0)
        error = message(engine.run(graph), "execution_error")
    assert error["exception_type"] == "ZeroDivisionError"
    assert error["node_type"] == "SaveImage"
    engine.succeed(graph)


def test_interrupting_stops_a_node_between_its_steps(engine: Engine) -> None:
    prompt_id = engine.accept(slow(steps=3000))
    engine.wait_until_running(prompt_id)
    asked = time.monotonic()
    engine.http.post("/interrupt").raise_for_status()
    entry = engine.wait(prompt_id)
    assert time.monotonic() - asked < 1
    told = message(entry, "execution_interrupted")
    assert (told["node_id"], told["node_type"], told["executed"]) == ("1", "RylaTest_Slow", [])
    assert entry["status"]["status_str"] == "error"
    engine.succeed(slow(steps=2))


def test_interrupting_by_id_spares_other_jobs(engine: Engine) -> None:
    prompt_id = engine.accept(slow(steps=20, text="spared"))
    engine.wait_until_running(prompt_id)
    engine.http.post("/interrupt", json={"prompt_id": new_id()}).raise_for_status()
    assert engine.wait(prompt_id)["outputs"]["2"]["values"][0] == "spared"


def test_history_keeps_the_newest(tmp_path: Path) -> None:
    with Engine(tmp_path, maximum_history=3) as engine:
        ids = [new_id() for _ in range(5)]
        for prompt_id in ids:
            engine.succeed(picture(), prompt_id=prompt_id)
        assert list(engine.get("/history")) == ids[2:]
        assert list(engine.get("/history?max_items=2")) == ids[3:]
        assert list(engine.get("/history?max_items=1&offset=1")) == ids[3:4]
        engine.http.post("/history", json={"delete": [ids[3]]}).raise_for_status()
        assert list(engine.get("/history")) == [ids[2], ids[4]]
        engine.http.post("/history", json={"clear": True}).raise_for_status()
        assert engine.get("/history") == {}
