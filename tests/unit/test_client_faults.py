"""Every fault of an engine ends in its one true outcome, inside its deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ryla_nodes.client import Client, Limits, Result, State, from_graph
from ryla_nodes.client.failures import worker_died
from unit.fake_engine import FakeEngine, graph

FAST = Limits(
    patience=0.5, gone_after=1.0, miss_span=0.2, resolve_span=0.4, idle_queue=0.6, doubt_after=0.4, cancel_grace=1.0,
    connect=1.0, answer=1.0, submit=0.6, transfer=2.0, socket=0.4,
)  # fmt: skip

OK = State.SUCCEEDED


def run(engine: FakeEngine, *, timeout: float = 20.0, nodes: dict[str, Any] | None = None, **limits: float) -> Result:
    """Run the graph on ``engine`` to its end, whatever that is."""
    with Client(engine.url, limits=Limits(**{**FAST.__dict__, **limits})) as client:
        return client.wait(client.start(from_graph(nodes or graph(), ["3"]), timeout=timeout))


@dataclass(frozen=True)
class Mode:
    """One row: what is wrong, how it has to end, and within how many seconds of the job's own time."""

    faults: tuple[str, ...]
    state: State = OK
    code: str = ""
    within: float = 1.5
    runs: int = 1
    legacy: bool = False
    says: str = ""

    @property
    def name(self) -> str:
        return "+".join(self.faults) + (" legacy" if self.legacy else "") or "normal"


FAILED, LOST, TIMED_OUT = State.FAILED, State.LOST, State.TIMED_OUT
MODES = [
    # The fifteen of the research's table.
    Mode((), within=0.8),
    Mode(("cached",), within=0.8),
    Mode(("preview",), within=0.8),
    Mode(("partial",), FAILED, "partial_validation", runs=0, says="format: 'bmp'"),
    Mode(("node error",), FAILED, "node_failed", runs=0, says='"Canvas" (EmptyImage) failed'),
    Mode(("oom",), FAILED, "gpu_oom", runs=0, says="Allocation on device 0"),
    Mode(("histrace",), within=1.4),
    Mode(("bigframe",)),
    Mode(("wsdrop",)),
    Mode(("wsdropend",)),
    Mode(("wsstall",)),
    Mode(("die",), LOST, "server_restarted", runs=0),
    Mode(("invalid",), FAILED, "rejected_input", runs=0, says="Value 0 smaller than min of 1 (width)"),
    Mode(("missing node",), FAILED, "missing_node", runs=0, says='"Canvas" (EmptyImage)'),
    Mode(("missing node",), FAILED, "missing_node", runs=0, legacy=True, says="EmptyImage does not exist"),
    # The websocket.
    Mode(("no ws",)),
    Mode(("ws hangs",)),
    Mode(("duplicated events",), within=0.8),
    Mode(("foreign events",), within=0.8),
    Mode(("junk frames",), within=0.8),
    Mode(("histrace", "wsstall"), within=2.2),
    # Answers that do not come, or come in pieces.
    Mode(("half history",)),
    Mode(("no json once",)),
    Mode(("slow loris",), within=2.2),
    Mode(("queue reset once", "no ws")),
    Mode(("null status",)),
    # Submits.
    Mode(("submit lost",), within=1.5),
    Mode(("submit reset",)),
    Mode(("submit unanswered",), within=1.5),
    Mode(("submit never answered, not taken",), within=2.0),
    Mode(("submit 502",)),
    Mode(("own ids",), FAILED, "engine_error", runs=0),
    Mode(("http 500",), FAILED, "engine_error", runs=0, says="500 Internal Server Error"),
    Mode(("http 403",), FAILED, "engine_forbidden", runs=0),
    Mode(("http 404",), FAILED, "not_comfyui", runs=0),
    Mode(("http 413",), FAILED, "request_too_large", runs=0),
    Mode(("http 429",), FAILED, "engine_busy", runs=0, says="wait 7 s"),
    Mode(("missing model",), FAILED, "missing_model", runs=0, says="flux1-dev.safetensors"),
    # Failures of our own nodes keep their code.
    Mode(("our error",), FAILED, "no_face", runs=0, says='"Canvas" (EmptyImage) on http://127.0.0.1'),
    Mode(("our check",), FAILED, "lora_not_found", runs=0, says="No LoRA anna."),
    # What the engine says of itself.
    Mode(("not comfyui",), FAILED, "not_comfyui", runs=0),
    Mode(("login",), FAILED, "engine_forbidden", runs=0),
    Mode(("no SaveImage",), FAILED, "missing_node", runs=0, says="SaveImage"),
    # Outputs.
    Mode(("no output",), FAILED, "missing_output"),
    Mode(("half view once",)),
    Mode(("view html",), FAILED, "bad_output", says="no picture"),
    Mode(("view truncated",), FAILED, "bad_output", says="cut off"),
    Mode(("gone output",), FAILED, "output_gone"),
    # A worker that is no more.
    Mode(("dead worker",), FAILED, "zombie_worker", runs=0, within=3.0),
    Mode(("worker dies", "dead worker logged"), FAILED, "zombie_worker", runs=0, within=3.0),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_mode(mode: Mode) -> None:
    with FakeEngine(*mode.faults, legacy=mode.legacy) as engine:
        began = time.monotonic()
        result = run(engine)
        took = time.monotonic() - began - engine.seconds
    assert result.state is mode.state, result.error
    assert (result.error.code if result.error else "") == mode.code
    assert took <= mode.within, took
    assert len(engine.executions) == mode.runs
    assert mode.says in (result.error.message if result.error else "")
    if result.ok:
        # The picture is this job's: the fake writes the prompt id into it.
        assert [picture.data.count(result.prompt_id.encode()) for picture in result.pictures] == [1]
    else:
        assert not result.pictures
        assert "sk-secret" not in str(result.error) + str(result.error.as_dict() if result.error else "")


def test_interrupted_by_somebody_else() -> None:
    with FakeEngine(seconds=20) as engine, Client(engine.url, limits=FAST) as client:
        job = client.submit(from_graph(graph(), ["3"]))
        _until(lambda: len(engine.running) == 1)
        engine.interrupt_now()
        result = client.wait(job)
    assert (result.state, result.error and result.error.code) == (FAILED, "interrupted_elsewhere")


def test_removed_from_the_queue_by_somebody_else() -> None:
    with FakeEngine() as engine, Client(engine.url, limits=FAST) as client:
        engine.add_other(20)
        job = client.submit(from_graph(graph(), ["3"]))
        engine.remove(job.prompt_id)
        result = client.wait(job)
    assert (result.state, result.error and result.error.code) == (LOST, "job_lost")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_deadline_is_hard_and_cancels_the_job(legacy: bool) -> None:
    with FakeEngine(seconds=30, legacy=legacy) as engine:
        began = time.monotonic()
        result = run(engine, timeout=0.7)
        assert time.monotonic() - began < 1.5
        assert (result.state, result.error and result.error.code) == (TIMED_OUT, "timed_out")
        _until(lambda: not engine.running)
    assert result.error is not None and result.error.details["verified"]


def test_a_deadline_holds_when_nothing_answers_any_more() -> None:
    """The engine stops in the middle of the job and its port stays open: nothing can be verified, time is up."""
    with FakeEngine(seconds=30) as engine, Client(engine.url, limits=FAST) as client:
        job = client.submit(from_graph(graph(), ["3"]), timeout=1.0)
        engine.loop.call_soon_threadsafe(time.sleep, 3)
        began = time.monotonic()
        result = client.wait(job)
        took = time.monotonic() - began
        engine.loop.call_soon_threadsafe(lambda: None)
    assert took < 1.0 + FAST.cancel_grace + 2.5
    assert result.state is TIMED_OUT and result.error is not None and not result.error.details["verified"]


def test_a_queue_full_of_other_peoples_work() -> None:
    positions: list[int | None] = []
    with FakeEngine() as engine, Client(engine.url, limits=FAST) as client:
        for _ in range(3):
            engine.add_other(0.5)
        prompt = from_graph(graph(), ["3"])
        result = client.run(prompt, on_progress=lambda progress: positions.append(progress.ahead))
    assert result.ok and result.timings.queued >= 1.0
    seen = [position for position in positions if position is not None]
    assert seen and seen[0] == 3 and seen == sorted(seen, reverse=True)


def test_a_deleted_cached_output_is_made_again_once() -> None:
    with FakeEngine("cached", "gone output") as engine:
        result = run(engine)
    assert result.ok and result.attempts == 2
    prefixes = [made["3"]["inputs"]["filename_prefix"] for made in engine.graphs]
    assert prefixes[0] == "fake" and prefixes[1].startswith("fake-")


def test_out_of_memory_is_tried_once_more_after_the_models_were_freed() -> None:
    with FakeEngine("oom once") as engine:
        result = run(engine)
    assert result.ok and result.attempts == 2 and engine.freed == 1


def test_only_the_declared_output_counts() -> None:
    """Previews on the websocket and in the history, and an output that nobody asked for, are no results."""
    with FakeEngine("preview", "partial elsewhere") as engine:
        result = run(engine, nodes=graph(preview=True))
    assert result.ok and [picture.node_id for picture in result.pictures] == ["3"]
    assert "PreviewImage" in result.warnings[0]


def test_a_preview_is_not_a_result() -> None:
    with FakeEngine() as engine, Client(engine.url, limits=FAST) as client:
        result = client.wait(client.start(from_graph(graph(preview=True), ["4"]), timeout=10))
    assert result.error is not None and result.error.code == "missing_output"


@pytest.mark.parametrize("restart", [True, False])
def test_an_engine_that_dies_in_the_middle(restart: bool) -> None:
    with FakeEngine(seconds=20) as engine, Client(engine.url, limits=FAST) as client:
        job = client.submit(from_graph(graph(), ["3"]))
        _until(lambda: len(engine.running) == 1)
        began = time.monotonic()
        engine.kill()
        if restart:
            engine.start()
        result = client.wait(job)
        took = time.monotonic() - began
    code = "server_restarted" if restart else "server_gone"
    assert (result.state, result.error and result.error.code) == (LOST, code)
    assert took < (2.0 if restart else FAST.gone_after + 2.0)


def test_an_engine_that_comes_up_late_still_gets_the_job() -> None:
    with FakeEngine() as engine, Client(engine.url, limits=FAST) as client:
        client.run(from_graph(graph(), ["3"]))
        engine.kill()
        job = client.start(from_graph(graph(), ["3"]), timeout=10, wait=5.0)
        time.sleep(0.3)
        engine.start()
        assert client.wait(job).ok


def test_nobody_there() -> None:
    with FakeEngine() as engine:
        pass
    began = time.monotonic()
    result = run(engine)
    assert result.error is not None and result.error.code == "engine_unreachable"
    assert engine.url in result.error.message and time.monotonic() - began < 1.0


def test_a_login_goes_with_http_and_websocket_but_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with FakeEngine() as engine:
        url = engine.url.replace("http://", "http://me:s3cret@")
        with Client(url, limits=FAST) as client:
            result = client.run(from_graph(graph(), ["3"]))
        assert engine.authorizations >= {"GET /ws", "POST /prompt", "GET /view"}
    assert "s3cret" not in repr(result) + caplog.text


def test_an_upload_is_named_by_its_content_and_the_engine_has_the_last_word(tmp_path: Path) -> None:
    nodes = graph()
    nodes["1"] = {"class_type": "LoadImage", "inputs": {"image": "photo.png"}, "_meta": {"title": "Photo"}}
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG\r\n\x1a\n face")
    from ryla_nodes.workflows.workflow import Upload

    prompt = from_graph(nodes, ["3"])
    prompt = type(prompt)(**{**prompt.__dict__, "uploads": (Upload("1", "image", photo),)})
    for faults, suffix in (((), ".png"), (("upload renames",), " (1).png")):
        with FakeEngine(*faults) as engine, Client(engine.url, limits=FAST) as client:
            client.run(prompt)
        name = engine.graphs[0]["1"]["inputs"]["image"]
        assert name.startswith("ryla/") and name.endswith(suffix) and "photo" not in name
        assert engine.uploads[name] == photo.read_bytes()
    with FakeEngine("upload 413") as engine, Client(engine.url, limits=FAST) as client:
        result = client.wait(client.start(prompt, timeout=5))
    assert result.error is not None and result.error.code == "request_too_large" and not engine.posts


def _until(true: Callable[[], bool], limit: float = 5.0) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


_TRACE = '  File "/x/execution.py", line 277, in process_inputs\n    result = f(**inputs)\nKeyboardInterrupt: no\n'


@pytest.mark.parametrize(
    ("log", "dead"),
    [
        ("", False),
        ("got prompt\nException in thread Thread-3 (prompt_worker):\nTraceback\n", True),
        (f"Prompt executed in 0.1 seconds\ngot prompt\n{_TRACE}got prompt\n", True),
        (f"got prompt\n!!! Exception during processing !!! no\n{_TRACE}Prompt executed in 0.1 seconds\n", False),
        (f"got prompt\n!!! Exception during processing !!! no\n{_TRACE}", False),
        (f"{_TRACE}Prompt executed in 3.0 seconds\ngot prompt\n", False),
        ('got prompt\n  File "/x/execution.py", line 9, in validate_prompt\nKeyError: 1\n', False),
    ],
)
def test_a_dead_worker_is_told_from_a_failed_node_by_the_log(log: str, dead: bool) -> None:
    assert worker_died({"entries": [{"t": "now", "m": piece} for piece in log.splitlines(keepends=True)]}) is dead
