"""What clients hear on the websocket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded.engine_client import Engine, new_id, node, picture, slow, until_idle
from websockets.sync.client import ClientConnection


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home")) as started:
        yield started


def silent(connection: ClientConnection) -> bool:
    """Whether nothing but the queue's length comes for a moment."""
    try:
        while json.loads(connection.recv(timeout=0.2))["type"] == "status":
            pass
    except TimeoutError:
        return True
    return False


def test_a_job_is_told_from_start_to_end(engine: Engine) -> None:
    with engine.listen("teller") as connection:
        greeting = json.loads(connection.recv())
        assert greeting["type"] == "status" and greeting["data"]["sid"] == "teller"
        assert greeting["data"]["status"] == {"exec_info": {"queue_remaining": 0}}
        prompt_id = engine.accept(picture(prefix="told"), client_id="teller")
        heard = until_idle(connection, prompt_id)
    events = [message for message in heard if message["type"] not in ("status", "progress_state")]
    assert [message["type"] for message in events] == [
        "execution_start", "execution_cached", "executing", "executing", "executing", "executed",
        "execution_success", "executing",
    ]  # fmt: skip
    assert [message["data"]["node"] for message in events if message["type"] == "executing"] == ["1", "2", "3", None]
    assert all(message["data"]["prompt_id"] == prompt_id for message in events)
    assert events[5]["data"]["output"] == {
        "images": [{"filename": "told_00001_.png", "subfolder": "", "type": "output"}]
    }
    remaining = [
        message["data"]["status"]["exec_info"]["queue_remaining"] for message in heard if message["type"] == "status"
    ]
    assert remaining[-1] == 0 and max(remaining) == 1


def test_history_is_written_before_the_last_message(engine: Engine) -> None:
    with engine.listen("eager") as connection:
        for color in range(20):
            prompt_id = engine.accept(picture(color=color), client_id="eager")
            until_idle(connection, prompt_id)
            assert prompt_id in engine.get(f"/history/{prompt_id}")
            assert engine.get("/queue")["queue_running"] == []


def test_progress_names_the_node_and_its_steps(engine: Engine) -> None:
    with engine.listen("stepper") as connection:
        prompt_id = engine.accept(slow(steps=4), client_id="stepper")
        heard = until_idle(connection, prompt_id)
    steps = [message["data"] for message in heard if message["type"] == "progress"]
    assert steps == [{"value": i, "max": 4, "prompt_id": prompt_id, "node": "1"} for i in range(1, 5)]
    states = [message["data"]["nodes"] for message in heard if message["type"] == "progress_state"]
    assert states[0]["1"] | {"value": 0, "max": 1, "state": "running"} == states[0]["1"]
    assert states[-1]["1"]["state"] == states[-1]["2"]["state"] == "finished"
    assert states[-1]["1"]["value"] == states[-1]["1"]["max"] == 4
    assert states[-1]["1"]["real_node_id"] == states[-1]["1"]["display_node_id"] == "1"


def test_only_the_submitter_hears_of_a_job(engine: Engine) -> None:
    with engine.listen("other") as connection:
        engine.succeed(picture(color=100), client_id="someone")
        engine.succeed(picture(color=101))
        assert silent(connection)


def test_an_interruption_of_nobodys_job_is_told_to_all(engine: Engine) -> None:
    with engine.listen("bystander") as connection:
        prompt_id = engine.accept(slow(steps=1000))
        engine.wait_until_running(prompt_id)
        engine.http.post("/interrupt").raise_for_status()
        while (heard := json.loads(connection.recv(timeout=5)))["type"] == "status":
            pass
        assert heard["type"] == "execution_interrupted" and heard["data"]["prompt_id"] == prompt_id


def test_a_blocked_node_is_told_and_the_job_goes_on(engine: Engine) -> None:
    graph = {
        "1": node("RylaTest_Text", text="no", fail=2),
        "2": node("RylaTest_Show", value=["1", 0]),
        "3": node("RylaTest_Show", value="fine"),
    }
    with engine.listen("blocked") as connection:
        prompt_id = engine.accept(graph, client_id="blocked")
        heard = until_idle(connection, prompt_id)
    error = next(message["data"] for message in heard if message["type"] == "execution_error")
    assert (error["node_id"], error["exception_message"]) == ("2", "Execution Blocked: blocked no")
    entry = engine.wait(prompt_id)
    assert entry["status"]["status_str"] == "success" and list(entry["outputs"]) == ["3"]


def test_a_client_that_comes_back_hears_what_runs_and_the_rest(engine: Engine) -> None:
    with engine.listen("returning"):
        prompt_id = engine.accept(slow(steps=60), client_id="returning")
        engine.wait_until_running(prompt_id)
        time.sleep(0.05)
    with engine.listen("returning") as connection:
        connection.recv()
        assert json.loads(connection.recv()) == {"type": "executing", "data": {"node": "1"}}
        assert until_idle(connection, prompt_id)


def test_a_second_socket_of_a_client_takes_the_place_of_the_first(engine: Engine) -> None:
    with engine.listen("double") as first, engine.listen("double") as second:
        prompt_id = engine.accept(picture(color=102), client_id="double")
        assert until_idle(second, prompt_id)
        first.close()
        again = engine.accept(picture(color=103), client_id="double")
        assert until_idle(second, again)


def test_feature_flags_are_answered_when_they_come_first(engine: Engine) -> None:
    with engine.listen("flags") as connection:
        connection.recv()
        connection.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        answer = json.loads(connection.recv(timeout=5))
        assert answer == {"type": "feature_flags", "data": {"supports_preview_metadata": False}}
        for nonsense in ("{", "[]", '{"type": "feature_flags"}'):
            connection.send(nonsense)
        assert silent(connection)
        prompt_id = engine.accept(picture(color=104), client_id="flags")
        assert until_idle(connection, prompt_id)


def test_a_client_that_does_not_read_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryla_nodes.engines.embedded.server.events.LONGEST_BACKLOG", 50)
    with Engine(tmp_path) as engine, engine.listen("reader") as reader:
        stuck = _deaf_client(engine, "stuck")
        until = time.monotonic() + 10
        # Big messages fill the socket's buffers, then the backlog.
        graph = {"1": node("RylaTest_Show", value="x" * 1_000_000, note="")}
        while "stuck" in engine._hub._clients:
            assert time.monotonic() < until
            graph["1"]["inputs"]["note"] = new_id()
            prompt_id = engine.accept(graph, client_id="stuck")
            engine.wait(prompt_id)
        prompt_id = engine.accept(picture(), client_id="reader")
        assert until_idle(reader, prompt_id)
        stuck.close()


def _deaf_client(engine: Engine, client_id: str) -> socket.socket:
    """Open a websocket and never read from it."""
    port = int(engine.url.rsplit(":", 1)[1])
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lines = (
        f"GET /ws?clientId={client_id} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
    )
    connection.sendall("\r\n".join((*lines, "", "")).encode())
    for _ in range(500):
        if client_id in engine._hub._clients:
            return connection
        time.sleep(0.01)
    raise AssertionError("the websocket did not open")
