"""Many jobs: every row is made once, also when engines and the runner itself die in between."""

from __future__ import annotations

import collections
import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ryla_nodes.batch.contact_sheet import Thumbnail, make
from ryla_nodes.batch.journal import Journal
from ryla_nodes.batch.naming import distinct, fill
from ryla_nodes.batch.rows import expand, read
from ryla_nodes.errors import RylaError
from ryla_nodes.sheet import LINE, Style
from unit.fake_engine import FakeEngine, engines
from unit.fake_engine_parts import add_workflow
from unit.test_client_cli import ryla
from unit.test_client_faults import _until

__all__ = ["ryla"]

RUNNER = """
import functools
from ryla_nodes.cli import app
from ryla_nodes.cli.run import engines
from ryla_nodes.client import Limits, pool
pool._ASIDE = (0.4,)
engines.Limits = functools.partial(Limits, gone_after=1.5, miss_span=0.2, resolve_span=0.5, patience=1)
app.main()
"""


def _rows(path: Path, count: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt"])
        writer.writerows([[f'row {number}, "quoted", ünïcode'] for number in range(1, count + 1)])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _prompt_id(file: Path) -> str:
    with Image.open(file) as picture:
        return str(picture.info["prompt_id"])


@pytest.mark.skipif(sys.platform == "win32", reason="Does not apply: kill -9 is a POSIX thing")
@pytest.mark.parametrize("count", [200])
def test_a_batch_outlives_an_engine_and_its_own_runner(tmp_path: Path, count: int) -> None:
    """Three engines: one is killed, one comes up half-way; the runner is killed with -9 and started again."""
    _rows(tmp_path / "rows.csv", count)
    (tmp_path / "out").mkdir()
    environ = os.environ | {"RYLA_WORKFLOWS": str(add_workflow(tmp_path / "workflows"))}
    with engines(3, seconds=0.05) as (steady, dying, late):
        late.kill()
        servers = [word for engine in (steady, dying, late) for word in ("--server", engine.url)]

        def start() -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", RUNNER, "run", "paint", "--batch", "rows.csv", "-o", "out/{index:04}.png"]
            return subprocess.Popen(
                [*command, *servers], cwd=tmp_path, env=environ, stderr=(tmp_path / "log").open("ab")
            )

        def made() -> int:
            return sum(len(engine.executions) for engine in (steady, dying, late))

        runner = start()
        try:
            _until(lambda: made() >= count * 0.3, 60)
            dying.kill()
            _until(lambda: made() >= count * 0.45, 60)
            late.start()
            _until(lambda: len(late.executions) >= count * 0.1, 60)
            runner.kill()
            runner.wait()
            before = made()
            assert before < count
            runner = start()
            assert runner.wait(90) == 0, (tmp_path / "log").read_text()
        finally:
            runner.kill()
            runner.wait()
        assert late.executions and len(steady.executions) < count

        results = [line for line in _lines(tmp_path / "out" / "results.jsonl") if line["state"] != "submitted"]
        assert [line["state"] for line in results] == ["succeeded"] * count
        assert sorted(line["index"] for line in results) == list(range(1, count + 1))
        files = sorted((tmp_path / "out").glob("*.png"))
        assert [file.name for file in files] == [f"{index:04}.png" for index in range(1, count + 1)]

        texts = {}
        for engine in (steady, dying, late):
            for prompt_id, graph in zip(engine.executions, engine.graphs, strict=True):
                texts[prompt_id] = graph["1"]["inputs"]["text"]
        delivered = {_prompt_id(file) for file in files}
        assert delivered == {line["prompt_id"] for line in results}
        for file in files:
            assert texts[_prompt_id(file)].startswith(f"row {int(file.stem)},")
        runs = collections.Counter(texts.values())
        again = {text for text, times in runs.items() if times > 1}
        # Twice only what the killed engine had finished and took with it.
        assert again <= {texts[prompt_id] for prompt_id in dying.executions if prompt_id not in delivered}
        assert len(again) <= 3


def test_the_same_command_makes_only_what_is_missing(ryla: Any, tmp_path: Path) -> None:
    command = ["paint", "--prompt", "a", "--seeds", "5,6,7", "-o", "{seed}.png", "--contact-sheet", "sheet.png"]
    with FakeEngine(seconds=0.01) as engine:
        status, _, err = ryla(*command, "--server", engine.url)
        assert status == 0 and "3 pictures" in err
        assert sorted(path.name for path in Path().glob("*.png")) == ["5.png", "6.png", "7.png", "sheet.png"]
        before = Path("5.png").read_bytes()
        Path("6.png").unlink()
        with Path("results.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"row": "torn')
        status, _, err = ryla(*command, "--server", engine.url)
        assert status == 0 and len(engine.executions) == 4
        assert engine.graphs[3]["1"]["inputs"]["seed"] == 6 and Path("5.png").read_bytes() == before
        status, out, _ = ryla(*command, "--server", engine.url, "--json")
        assert json.loads(out)["made"] == 3 and len(engine.executions) == 4
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (2 * 264 + 8, 2 * 286 + 8)


def test_a_contact_sheet_has_the_format_of_its_suffix_and_captions_that_fit(tmp_path: Path) -> None:
    Image.new("RGB", (640, 320), "white").save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    shown = [
        Thumbnail(tmp_path / "wide.png", "1  seed 7"),
        Thumbnail(
            tmp_path / "broken.png", "a red star at the top left on a background of navy and of cream " * 4, True
        ),
    ]
    assert make(shown, tmp_path / "sheet.jpg", columns=3, lines=2, style=Style(tile=64, gap=4)) == 2
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", (3 * 68 + 4, 64 + 22 + LINE + 8))
        # The wide picture is in the middle of its tile; the caption stays below its own.
        assert min(sheet.getpixel((36, 36))) > 240 and max(sheet.getpixel((36, 10))) < 60
        assert all(max(sheet.getpixel((x, 80))) < 60 for x in range(140, 200))
    assert make(shown, tmp_path / "sheet") == 2
    with Image.open(tmp_path / "sheet") as sheet:
        assert sheet.format == "PNG"


def test_a_batch_runs_on_a_volume_that_cannot_flush(ryla: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fsync(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", no_fsync)
    with FakeEngine(seconds=0.01) as engine:
        status, _, err = ryla("paint", "--prompt", "a", "--count", "2", "-o", "{index}.png", "--server", engine.url)
    assert status == 0, err
    assert [line["state"] for line in _lines(Path("results.jsonl"))].count("succeeded") == 2


def test_random_seeds_are_kept_over_a_restart(ryla: Any) -> None:
    with FakeEngine("node error", seconds=0.01) as engine:
        status, _, err = ryla("paint", "--prompt", "a", "--count", "4", "--server", engine.url)
        assert status == 5 and "batch_incomplete" in err and "4 of 4 jobs failed" in err and "mat1 and mat2" in err
        seeds = {line["seed"] for line in _lines(Path("results.jsonl")) if line["state"] == "failed"}
        engine.faults.clear()
        status, _, _ = ryla("paint", "--prompt", "a", "--count", "4", "--server", engine.url)
    assert status == 0 and len(seeds) == 4
    assert {graph["1"]["inputs"]["seed"] for graph in engine.graphs} == seeds
    assert len(list(Path().glob("paint-000?-*.png"))) == 4


def test_a_row_that_an_engine_had_when_the_runner_died_is_fetched_and_not_run_again(ryla: Any) -> None:
    with FakeEngine(seconds=0.01) as engine:
        assert ryla("paint", "--prompt", "a", "--seeds", "5", "-o", "{seed}.png", "--server", engine.url)[0] == 0
        lines = _lines(Path("results.jsonl"))
        # As a runner leaves it that is killed between the end of the job and its own note of it.
        Path("results.jsonl").write_text(json.dumps(lines[0]) + "\n", encoding="utf-8")
        Path("5.png").unlink()
        assert ryla("paint", "--prompt", "a", "--seeds", "5", "-o", "{seed}.png", "--server", engine.url)[0] == 0
        assert len(engine.executions) == 1 and _prompt_id(Path("5.png")) == engine.executions[0]


def test_two_runners_do_not_share_a_manifest(ryla: Any, tmp_path: Path) -> None:
    root = tmp_path / "workflows"
    with FakeEngine(seconds=20) as engine:
        command = ["run", "paint", "--prompt", "a", "--count", "2", "--server", engine.url]
        child = subprocess.Popen(
            [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", *command],
            env=os.environ | {"RYLA_WORKFLOWS": str(root)}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _until(lambda: bool(engine.running), 20)
            status, _, err = ryla(*command[1:])
            assert status == 7 and "batch_running" in err
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="Does not apply: flock is a POSIX thing")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_on_a_volume_without_locks_one_runner_at_a_time_makes_the_batch(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "results.jsonl"
    with Journal(path, "paint"):
        with pytest.raises(RylaError) as refused, Journal(path, "paint"):
            raise AssertionError("two runners at once")
        assert refused.value.code == "batch_running"
    # One that was killed leaves its mark; the next takes it over.
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    mark = path.with_name(f".{path.name}.lock.owner")
    with Journal(path, "paint"):
        left = json.loads(mark.read_text(encoding="utf-8"))
    mark.write_text(json.dumps({**left, "pid": int(gone.stdout)}), encoding="utf-8")
    with Journal(path, "paint"):
        assert json.loads(mark.read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert not mark.exists()


def test_a_batch_without_any_engine_stops_and_says_why(ryla: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryla_nodes.cli.run.many._WAIT", 0.5)
    with FakeEngine() as engine:
        pass
    began = time.monotonic()
    status, _, err = ryla("paint", "--prompt", "a", "--count", "50", "--server", engine.url)
    assert status == 4 and "engine_unreachable" in err and time.monotonic() - began < 5


def test_a_model_that_only_one_engine_has_goes_there(ryla: Any) -> None:
    with engines(2, seconds=0.01) as (poor, rich):
        poor.faults.add("no SaveImage")
        command = ["paint", "--prompt", "a", "--count", "6", "--server", poor.url, "--server", rich.url]
        assert ryla(*command)[0] == 0
    assert not poor.posts and len(rich.executions) == 6


BATCHES = [
    ("a.csv", "prompt,sede\nx,1\n", 'Row 1: paint has no parameter "sede": did you mean "seed"'),
    ("a.csv", "prompt,seed\nx,1\ny,abc\n", 'Row 2: seed is a number, not "abc"'),
    ("a.csv", "prompt,seed\nx\n", "line 2"),
    ("a.csv", "prompt,prompt\nx,y\n", "repeated column"),
    ("a.csv", "", "empty or repeated column|has no rows"),
    ("a.csv", "prompt\n", "has no rows"),
    ("a.csv", 'prompt\n"x', "line 2|unexpected end"),
    ("a.jsonl", '{"prompt": "x"}\n{"prompt"\n', "line 2: it is not JSON"),
    ("a.jsonl", "[1]\n", "not an object"),
    ("a.txt", "x", "neither .csv nor .jsonl"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "says"), BATCHES)
def test_a_bad_batch_is_refused_before_anything_is_run(ryla: Any, name: str, text: str, says: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
    with FakeEngine() as engine:
        status, _, err = ryla("paint", "--batch", name, "--server", engine.url)
    assert status == 2 and any(part in err for part in says.split("|")), err
    assert not engine.posts and not list(Path().glob("*.png"))


def test_results_of_another_workflow_are_refused(ryla: Any) -> None:
    Path("results.jsonl").write_text('{"row": "x", "workflow": "other", "state": "failed"}\n')
    status, _, err = ryla("paint", "--prompt", "a", "--count", "2", "--server", "http://127.0.0.1:9")
    assert status == 2 and "invalid_manifest" in err and "of other" in err


def test_a_row_is_the_same_row_wherever_it_stands() -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}]
    before = {(row.values["prompt"], row.key) for row in expand("w", rows, {})}
    after = {(row.values["prompt"], row.key) for row in expand("w", [{"prompt": "new"}, *rows], {})}
    assert len(before) == 3 and before < after
    counted = expand("w", [{"prompt": "a", "seed": "9"}], {}, count=3)
    assert [row.values["seed"] for row in counted] == [9, 10, 11]
    assert len({row.key for row in expand("w", [{"prompt": "a"}], {}, count=3)}) == 3


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('﻿prompt,seed\r\n"a, ""b""\r\nnext line",\r\n,\r\nc,4\r\n'.encode())
    assert read(path) == [{"prompt": 'a, "b"\nnext line'}, {"prompt": "c", "seed": "4"}]


def test_names_are_safe_and_distinct() -> None:
    assert fill("{prompt}-{index:03}", {"prompt": "../a/b\\c: \n" + "x" * 200, "index": 4}).count("/") == 0
    assert [str(path) for path in distinct([Path("a.png"), Path("A.png"), Path("a.png")], [Path("a-2.png")])] == [
        "a.png", "A-3.png", "a-4.png",
    ]  # fmt: skip
    with pytest.raises(RylaError, match="cannot be filled"):
        fill("{index:%Q}", {"index": 1})
