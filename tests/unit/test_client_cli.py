"""``ryla run`` as it is typed, against engines that truly speak the protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ryla_nodes.cli import output
from typed import typed
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import add_workflow, jpeg
from unit.test_client_faults import _until


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(seconds=0.02) as fake:
        yield fake


@pytest.fixture
def ryla(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run ``ryla run ...`` in this process and an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.setenv("RYLA_WORKFLOWS", str(add_workflow(tmp_path / "workflows")))
    monkeypatch.delenv("RYLA_SERVER", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    return typed(monkeypatch, capsys, "run")


def _files() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_one_picture(ryla: Any, engine: FakeEngine) -> None:
    status, out, err = ryla("paint", "--prompt", "a fox", "--seed", "7", "--server", engine.url, "-o", "fox.png")
    assert (status, out) == (0, "")
    assert "saved   fox.png" in err and "seed    7" in err and "time" in err and "Paint" in err
    assert _files() == ["fox.png"]
    assert engine.executions[0].encode() in Path("fox.png").read_bytes()
    assert engine.graphs[0]["1"]["inputs"] == {"seed": 7, "text": "a fox"}


def test_json(ryla: Any, engine: FakeEngine) -> None:
    status, out, err = ryla("paint", "--prompt=-o", "--server", engine.url, "--json")
    body = json.loads(out)
    assert (status, err) == (0, "")
    assert body["ok"] and body["state"] == "succeeded" and body["parameters"]["prompt"] == "-o"
    assert body["files"] == [f"paint-{body['seed']}.png"] == _files()
    assert body["prompt_id"] == engine.executions[0] and body["timings"]["execution"] is not None


def test_the_commands_are_there_before_anything_heavy_is_imported() -> None:
    script = "import sys, ryla_nodes.cli.app; print([name for name in sys.argv[1:] if name in sys.modules])"
    heavy = ["asyncio", "httpx", "PIL", "torch", "ryla_nodes.client"]
    done = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("columns", [80, 120])
def test_help_says_each_default_once_and_breaks_no_sentence(
    ryla: Any, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", columns)
    monkeypatch.setattr(output.console, "width", columns)
    status, out, err = ryla("paint", "--help")
    assert status == 0 and "--prompt" in err
    assert max(map(len, (out + err).splitlines())) <= columns
    said = " ".join(out.replace("│", " ").split())
    assert "(else results.jsonl beside the pictures)." in said
    assert "(else its own environment's)." in said
    assert "else the embedded engine." in said and "Default" not in out and ".." not in out


def test_dry_run_prints_the_bound_graph_and_needs_no_engine(ryla: Any) -> None:
    status, out, _ = ryla("paint", "--prompt", "a", "--seed", "3", "--dry-run")
    graph = json.loads(out)
    assert status == 0 and graph["1"]["inputs"] == {"seed": 3, "text": "a"} and _files() == []


def test_the_server_of_the_environment_is_said(ryla: Any, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RYLA_SERVER", engine.url)
    status, _, err = ryla("paint", "--prompt", "a")
    assert status == 0 and f"Engine: {engine.url} (RYLA_SERVER)" in err


def test_a_suffix_of_another_format_converts_and_says_so(ryla: Any, engine: FakeEngine) -> None:
    status, _, err = ryla("paint", "--prompt", "a", "--server", engine.url, "-o", "a.jpg")
    assert status == 0 and "converted from PNG" in err
    with Image.open("a.jpg") as picture:
        assert picture.format == "JPEG" and picture.size == (8, 8)


def test_several_pictures_of_one_job(ryla: Any, engine: FakeEngine) -> None:
    engine.make = jpeg
    engine.faults.add("two pictures")
    status, _, err = ryla("paint", "--prompt", "a", "--server", engine.url, "-o", "a.jpg")
    assert status == 0 and _files() == ["a-2.jpg", "a.jpg"] and err.count("saved") == 2


BAD = [
    (["nope", "--prompt", "a"], 2, "unknown_workflow"),
    (["paint"], 2, "missing_parameter"),
    (["paint", "--prompt", "a", "--promt", "b"], 2, 'did you mean "prompt"'),
    (["paint", "--prompt", "a", "--seed", "abc"], 2, "invalid_parameter"),
    (["paint", "--prompt", "a", "--prompt", "b"], 2, "given twice"),
    (["paint", "--prompt", "a", "--timeuot", "5"], 2, "did you mean the option --timeout"),
    (["paint", "--prompt", "a", "-o", "none/a.jpg"], 7, "output_folder_missing"),
    (["paint", "--prompt", "a", "-o", "a.bmp"], 2, "invalid_output_path"),
    (["paint", "--prompt", "a", "-o", "."], 2, "is a folder"),
    (["paint", "--prompt", "a", "-o", "{size}.png"], 2, "{size}"),
    (["paint", "--prompt", "a", "--count", "2", "-o", "a.png"], 2, "one name for many"),
    (["paint", "--prompt", "a", "--seeds", "1,x"], 2, "invalid_parameter"),
    (["paint", "--prompt", "a", "--seeds", "1", "--count", "2"], 2, "conflicting_options"),
    (["paint", "--prompt", "a", "--batch", "none.csv"], 7, "unreadable_file"),
    (["paint", "--prompt", "a", "--engine", "embedded"], 2, "conflicting_options"),
    (["paint", "--prompt", "a", "--start-comfyui", "."], 2, "conflicting_options"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status", "says"), BAD, ids=lambda value: str(value)[:60])
def test_bad_input_ends_before_anything_is_run(
    ryla: Any, engine: FakeEngine, arguments: list[str], status: int, says: str
) -> None:
    got, out, err = ryla(*arguments, "--server", engine.url)
    assert (got, out) == (status, "") and says in err
    assert "Traceback" not in err and err.count("\nnext") == 1
    assert not engine.posts and _files() == []


def test_bad_input_in_json_is_one_object(ryla: Any) -> None:
    status, out, err = ryla("paint", "--promt", "x", "--json")
    body = json.loads(out)
    assert status == 2 and err == "" and body["error"]["code"] == "unknown_parameter"


def test_a_server_that_is_no_comfyui(ryla: Any, engine: FakeEngine) -> None:
    engine.faults.add("not comfyui")
    status, _, err = ryla("paint", "--prompt", "a", "--server", engine.url)
    assert status == 4 and "not_comfyui" in err and engine.url in err


def test_a_picture_that_cannot_be_written_is_not_lost(ryla: Any, engine: FakeEngine) -> None:
    """The folder goes away while the job runs."""
    Path("out").mkdir()
    engine.on_execute = lambda: Path("out").rmdir()
    status, _, err = ryla("paint", "--prompt", "a", "--server", engine.url, "-o", "out/a.png")
    assert status == 7 and "output_folder_missing" in err and "The picture is still on" in err and "sub dir/p_" in err


@pytest.mark.skipif(sys.platform == "win32", reason="Does not apply: POSIX limits")
@pytest.mark.parametrize(("how", "code"), [("full", "disk_full"), ("read-only", "output_not_writable")])
def test_a_full_disk_and_a_read_only_folder_leave_no_half_file(how: str, code: str, tmp_path: Path) -> None:
    """In a child: a file size limit stands for a full disk, another user for a folder that may not be written."""
    script = (
        "import resource, signal, sys, os, pathlib; from ryla_nodes.client.results import write;"
        "from ryla_nodes.errors import RylaError; folder = pathlib.Path(sys.argv[1]);\n"
        "if sys.argv[2] == 'full':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "else:\n"
        "    folder.chmod(0o555)\n"
        "    if os.getuid() == 0: os.seteuid(65534)\n"
        "try: write(folder / 'a.png', b'x' * 100_000)\n"
        "except RylaError as error: print(error.code, error.hint)\n"
    )
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a", how], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith(f"{code} ") and "another path with -o" in told.stdout
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Does not apply: SIGINT to a child is a POSIX thing")
def test_ctrl_c_ends_with_130_and_a_free_engine(tmp_path: Path) -> None:
    root = add_workflow(tmp_path / "workflows")
    with FakeEngine(seconds=30) as engine:
        child = subprocess.Popen(
            [sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", "run", "paint", "--prompt", "a",
             "--server", engine.url],
            stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ | {"RYLA_WORKFLOWS": str(root)},
        )  # fmt: skip
        _until(lambda: len(engine.running) == 1, 20)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=10)
        assert child.returncode == 130 and "cancelled" in err and "Traceback" not in err
        assert "Run it again with --seed " in err
        assert time.monotonic() - began < 3 and not engine.running
    assert sorted(path.name for path in tmp_path.iterdir()) == ["workflows"]
