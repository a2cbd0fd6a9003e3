"""Whatever is sent, the answer is no failure of the engine, is JSON proper, and tells nothing of its machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded.engine_client import Answer, Engine, message, node, picture
from ryla_nodes.errors import RylaError
from ryla_nodes.nodes import node_classes

FORM = "multipart/form-data; boundary=X"
SHOW = node("RylaTest_Show", value=["1", 0])
EMPTY = node("EmptyImage", width=8, height=8, batch_size=1, color=1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("a-home-of-its-own"), more=node_classes()) as started:
        (started.files.output / "t.txt").write_text("x")
        (started.files.input / "d").mkdir()
        yield started


def part(name: str, content: bytes, filename: str = "", extra: str = "") -> bytes:
    told = f'; filename="{filename}"' if filename else ""
    return f'--X\r\nContent-Disposition: form-data; name="{name}"{told}{extra}\r\n\r\n'.encode() + content + b"\r\n"


def posted(engine: Engine, path: str, *parts: bytes) -> Answer:
    return engine.send("POST", path, b"".join(parts) + b"--X--\r\n", Content_Type=FORM)


def saving(link: Any) -> dict[str, Any]:
    return {"1": EMPTY, "2": node("SaveImage", images=link, filename_prefix="x")}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/view?filename=" + "a" * 300, 403),
        ("/view?filename=" + "%F0%9F%98%80" * 100, 403),
        ("/view?filename=%ED%A0%80.png", 404),
        ("/view?filename=a%0Ab.png", 403),
        ("/view?filename=t.txt&preview=webp", 422),
        ("/view?filename=t.txt&channel=rgb", 422),
        ("/view?filename=t.txt&channel=a&preview=jpeg;" + "9" * 5000, 422),
        ("/view?filename=x&subfolder=..", 403),
        ("/view?filename=x&subfolder=" + "a/" * 2000, 403),
        ("/view?filename=t.txt&subfolder=t.txt", 404),
        ("/api/jobs?limit=" + "9" * 4999, 400),
        ("/api/jobs?offset=%D9%A3%C2%B2", 400),
        ("/history?max_items=" + "9" * 4999, 400),
        ("/history?offset=1e3", 400),
        ("/history/" + "a" * 3000, 200),
        ("/models/..%2F..", 404),
    ],
)
def test_a_query_of_any_kind_gets_its_answer(engine: Engine, path: str, status: int) -> None:
    answer = engine.send("GET", path)
    assert answer.status == status and not engine.leaks(answer)


@pytest.mark.parametrize(("path", "found"), [("/queue", 200), ("/nowhere", 404)])
@pytest.mark.parametrize(("expect", "status"), [(b"\x80", 400), (b"nothing", 417), (b"100-Continue", None)])
def test_an_expectation_of_any_kind_gets_its_answer(
    engine: Engine, path: str, found: int, expect: bytes, status: int | None
) -> None:
    assert engine.send("GET", path, Expect=expect).status == (status or found)


@pytest.mark.parametrize(
    "name", ["Upgrade", "Sec-WebSocket-Key", "Authorization", "Range", "Content-Encoding", "Cookie"]
)
def test_headers_are_text(engine: Engine, name: str) -> None:
    for path in ("/ws", "/queue", "/view?filename=t.txt"):
        answer = engine.send("GET", path, **{name: b"\x80\xff"})
        assert answer.status == 400, (path, answer)


UPLOAD = part("image", b"x", "a.png")
REFERENCES = (b'{"filename": 5}', b'{"filename": "t.txt", "subfolder": 5}', b'{"filename": "t.txt"}', b"[" * 100_000)


@pytest.mark.parametrize(
    "parts",
    [
        [part("image", b"x", "a" * 300)],
        [part("image", b"x", "\U0001f600" * 60)],
        [part("image", b"x", "a\tb.png")],
        [UPLOAD, part("subfolder", b"a" * 5000)],
        [UPLOAD, part("subfolder", b"\xff")],
        [UPLOAD, part("subfolder", b"..")],
        [UPLOAD, part("subfolder", b"a.png"), UPLOAD, part("type", b"nowhere")],
        [part("image", b"x", "d")],
        [part("image", b"x", "d"), part("overwrite", b"true")],
        [part("image", b"x", "a.png", "\r\nContent-Transfer-Encoding: nope")],
        [part("image", b"x", "a.png", "\r\nContent-Encoding: deflate")],
        [part("image", b"x", "a.png", "\r\nContent-Type: multipart/mixed; boundary=Y")],
        [b"--X\r\n" + b"A: b\r\n" * 20_000 + b"\r\nx\r\n"],
        [part(str(number), b"x") for number in range(1000)],
        [UPLOAD, part("subfolder", b"a" * 100_000)],
        [b"\r\n" * 1000],
        [b"--X\r\n\r\n"],
    ],
    ids=str,
)
def test_an_upload_of_any_kind_is_stored_or_refused(engine: Engine, parts: list[bytes]) -> None:
    answer = posted(engine, "/upload/image", *parts)
    assert answer.status == 400 and not engine.leaks(answer)


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda value: str(value[:40]))
def test_a_mask_for_anything_is_refused(engine: Engine, reference: bytes) -> None:
    answer = posted(engine, "/upload/mask", UPLOAD, part("original_ref", reference))
    assert answer.status in (400, 422) and not engine.leaks(answer)


def test_a_mask_of_another_size_is_refused(engine: Engine) -> None:
    outputs = engine.succeed({**saving(["1", 0])})["2"]["images"]
    mask = engine.http.get("/view", params=engine.succeed(picture(size=9))["3"]["images"][0]).content
    reference = json.dumps(outputs[0]).encode()
    answer = posted(engine, "/upload/mask", part("image", mask, "m.png"), part("original_ref", reference))
    assert answer.status == 422 and b"The mask has 9 x 9 pixels and its picture 8 x 8" in answer


@pytest.mark.parametrize("path", ["/prompt", "/queue", "/history", "/free", "/interrupt"])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        # Deep enough to be read and too deep to be written inside of an answer.
        b'{"extra_data": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"prompt_id": NaN}',
        b'{"number": 1e999}',
        b'{"a": -Infinity}',
        b"1" * 5000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
    ids=lambda value: str(value[:20]),
)
def test_json_that_could_not_be_written_again_is_refused(engine: Engine, path: str, body: bytes) -> None:
    answer = engine.send("POST", path, body, Content_Type="application/json")
    assert answer.status == 400 and answer.error == "invalid_json" and not engine.leaks(answer)


@pytest.mark.parametrize("number", ["nan", "Infinity", [], {}, "x" * 5000, 10**400])
def test_a_place_in_the_queue_is_a_number(engine: Engine, number: Any) -> None:
    answer = engine.submit(picture(), number=number)
    assert answer.status_code == 400 and len(answer.content) < 5000


@pytest.mark.parametrize("strength", ["nan", "inf", "-Infinity", "1e999"])
def test_a_number_of_a_graph_is_finite(engine: Engine, strength: str) -> None:
    graph = {"1": node("PrimitiveFloat", value=strength), "2": node("RylaTest_Show", value=["1", 0])}
    error = engine.submit(graph).json()["node_errors"]["1"]["errors"][0]
    assert error["type"] == "invalid_input_type" and "not a finite number" in error["details"]


def test_one_bad_job_leaves_the_history_readable_for_all(engine: Engine) -> None:
    """What was accepted is JSON, and so is what every client reads of it later."""
    sent: list[dict[str, Any]] = [
        {"number": float("nan")},
        {"extra_data": {"x": float("inf")}},
        {"extra_data": {"extra_pnginfo": {"x": [1e308]}}},
        {"client_id": "\ud800"},
        {"front": []},
    ]
    for fields in sent:
        engine.send("POST", "/prompt", json.dumps({"prompt": picture(prefix="one"), **fields}).encode())
    engine.succeed(picture(prefix="last"))
    for path in ("/history", "/queue", "/api/jobs", "/prompt"):
        json.loads(engine.http.get(path).content, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "link", [["9", 0], ["1", "0"], ["1", 5], [[], 0], ["1", True], ["1", 10**20], ["2", 0], [{}, {}]]
)
def test_a_link_to_nowhere_is_told_without_a_traceback(engine: Engine, link: list[Any]) -> None:
    answer = engine.send("POST", "/prompt", json.dumps({"prompt": saving(link)}).encode())
    assert answer.status == 400 and answer.error == "prompt_outputs_failed_validation" and not engine.leaks(answer)
    assert b'"traceback": []' in answer or b'"dependency_cycle"' in answer


def test_an_echo_is_not_longer_than_what_it_is_about(engine: Engine) -> None:
    long = "x" * 1_000_000
    for graph in (
        saving(["1"] * 100_000),
        {**saving(["1", 0]), "1": node("EmptyImage", width=long, height=8, batch_size=1, color=1)},
        {**saving(["1", 0]), "1": node("EmptyImage", width=[[long]] * 3, height=8, batch_size=1, color=1)},
        {"1": node("LoadImage", image=long), "2": node("PreviewImage", images=["1", 0])},
    ):
        answer = engine.submit(graph)
        assert answer.status_code == 400 and len(answer.content) < 20_000


@pytest.mark.parametrize(
    ("graph", "told"),
    [
        (picture(prefix="../../outside"), "outside of the output folder"),
        (picture(prefix="a" * 300), "File name too long"),
        ({"1": node("LoadImage", image="t.png"), "2": node("PreviewImage", images=["1", 0])}, "not a picture"),
        ({"1": node("RylaTest_Text", text="{home}/x /etc/passwd", fail=1), "2": SHOW}, "no $RYLA_HOME/x .../passwd"),
        ({"1": node("RylaTest_Text", text="x", fail=3), "2": SHOW}, "keep no state"),
    ],
)
def test_the_failure_of_a_job_tells_no_path(engine: Engine, graph: dict[str, Any], told: str) -> None:
    (engine.files.input / "t.png").write_text("no picture")
    given = json.loads(json.dumps(graph).replace("{home}", str(engine.files.home)))
    error = message(engine.run(given), "execution_error")
    assert told in error["exception_message"] and not engine.leaks(error["exception_message"].encode())
    assert error["traceback"] and not engine.leaks(json.dumps(error["traceback"]).encode())


def test_what_our_nodes_say_at_the_door_tells_no_path(engine: Engine) -> None:
    lora = node("RYLA_LoraLoader", model=["1", 0], lora_id="nobody", strength=1.0, on_missing="error")
    graph = {"1": node("RYLA_FluxLoader", model="auto", weight_dtype="default", text_encoder="auto"), "2": lora}
    answer = engine.send(
        "POST", "/prompt", json.dumps({"prompt": {**graph, "3": node("RylaTest_Show", value=["2", 3])}}).encode()
    )
    assert answer.status == 400 and b"$RYLA_HOME/models/loras" in answer and not engine.leaks(answer)


def test_a_report_of_a_node_names_folders_by_what_they_are(engine: Engine) -> None:
    text = f"{engine.files.home}/models/loras/x.safetensors"
    graph = {"1": node("RylaTest_Show", value=text)}
    assert engine.succeed(graph)["1"]["values"][0] == "$RYLA_HOME/models/loras/x.safetensors"


def test_an_engine_of_one_process_says_where_its_files_are(tmp_path: Path) -> None:
    with Engine(tmp_path, hide_paths=False) as engine:
        assert engine.succeed({"1": node("RylaTest_Show", value=f"{tmp_path}/x")})["1"]["values"][0] == f"{tmp_path}/x"


def test_circles_of_links_on_the_disk_lead_nowhere(engine: Engine) -> None:
    (engine.files.output / "round").symlink_to(engine.files.output / "round")
    assert engine.send("GET", "/view?filename=x.png&subfolder=round").status in (403, 404)
    with pytest.raises(RylaError, match="is not a file name"):
        engine.files.resolve("\ud800.png")
