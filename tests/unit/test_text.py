"""Text from elsewhere: spreadsheets, Windows, other programs. It is read, or refused with the right line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ryla_nodes import settings, text
from ryla_nodes.batch.rows import read
from ryla_nodes.errors import RylaError
from ryla_nodes.workflows.manifest import load
from ryla_nodes.workflows.workflow import bind
from unit.fake_engine_parts import add_workflow

READ: list[tuple[str, bytes, list[dict[str, Any]]]] = [
    ("u2028.jsonl", '{"p": "a\u2028b"}\n'.encode(), [{"p": "a\u2028b"}]),
    ("u0085.jsonl", '{"p": "a\x85b"}\n{"p": "c"}'.encode(), [{"p": "a\x85b"}, {"p": "c"}]),
    ("vt_ff.csv", b"p\r\na\x0bb\x0cc\r\n", [{"p": "a\x0bb\x0cc"}]),
    ("bom.jsonl", '\ufeff{"p": "a"}\n'.encode(), [{"p": "a"}]),
    ("bom.csv", "\ufeffp,q\r\na,1\r\n".encode(), [{"p": "a", "q": "1"}]),
    ("old_mac.jsonl", b'{"p": "a"}\r{"p": "b"}\r', [{"p": "a"}, {"p": "b"}]),
    ("utf16.csv", "p\tq\r\nä\t1\r\n".encode("utf-16"), [{"p": "ä", "q": "1"}]),
    ("utf16_big.csv", "p;q\r\nä;1\r\n".encode("utf-16-be"), [{"p": "ä", "q": "1"}]),
    ("utf16.jsonl", '{"p": "狐 and a fox"}\n'.encode("utf-16-le"), [{"p": "狐 and a fox"}]),
    ("utf32.csv", "p\r\nä\r\n".encode("utf-32"), [{"p": "ä"}]),
    ("excel_de.csv", b"p;q\r\n1,5;a\r\n", [{"p": "1,5", "q": "a"}]),
    ("tabs.tsv", b"p\tq\na, b; c\t2\n", [{"p": "a, b; c", "q": "2"}]),
    ("sep.csv", b"sep=;\r\np;q\r\n1;a\r\n", [{"p": "1", "q": "a"}]),
    ("sep_pipe.csv", b'"sep=|"\r\np|q\r\n1|a\r\n', [{"p": "1", "q": "a"}]),
    ("trailing.csv", b"p,q,,\r\n1,a,,\r\n", [{"p": "1", "q": "a"}]),
    ("blank_first.csv", b"\r\n\r\np,q\r\n\r\n1,a\r\n", [{"p": "1", "q": "a"}]),
]  # fmt: skip

REFUSED = [
    ("half.jsonl", b'{"p": "a"}\n{"p": "a\\ud83d"}\n', "line 2: it has half of a character"),
    ("half_name.jsonl", b'{"a\\udc00": 1}\n', "line 1: it has half of a character"),
    ("deep.jsonl", b'{"p": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 1: it is nested too deep"),
    ("nan.jsonl", b'{"p": 1}\n{"p": NaN}\n', "line 2: it is not JSON (NaN"),
    ("twice.jsonl", b'{"p": 1, "p": 2}\n', 'line 1: it is not JSON ("p" is given twice)'),
    ("after_u2028.jsonl", '{"p": "a\u2028b"}\n\n{"p"\n'.encode(), "line 3: it is not JSON"),
    ("quote.csv", b'p,q\n1,"wide" shot\n', "line 2: ',' expected"),
    ("after_multiline.csv", b'sep=,\np,q\n1,"two\nlines"\n2\n', "line 5: it does not have the 2 cells"),
    ("multiline.csv", b'p,q\n1,a\n"three\n\nlines"\n', "line 3: it does not have the 2 cells"),
    ("more.csv", b"p,q\n1,2,3\n", "line 2: it does not have the 2 cells"),
    ("names.csv", b"\np,,q\n1,2,3\n", "line 2: there is an empty or repeated column name"),
    ("latin.csv", "p\na\nF\xfcchse\n".encode("latin-1"), "line 3: it is not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "rows"), READ)
def test_rows_as_others_write_them(name: str, data: bytes, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name) == rows


@pytest.mark.parametrize(("name", "data", "says"), REFUSED)
def test_rows_that_are_refused_name_the_line(name: str, data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RylaError) as failure:
        read(tmp_path / name)
    assert failure.value.code == "invalid_batch" and f"{name}, {says}" in failure.value.message


@pytest.mark.parametrize("seed", ["1.23457E+15", "1e3", 1.23457e15, "9.2E18", "2.5E+11"])
def test_a_number_that_a_spreadsheet_rounded_is_no_seed(seed: object, tmp_path: Path) -> None:
    workflow = load("paint", settings.load({"RYLA_WORKFLOWS": str(add_workflow(tmp_path))}))
    with pytest.raises(RylaError, match="looks rounded"):
        bind(workflow, {"prompt": "a", "seed": seed})
    for good in ("1234567890123456789", 2**64 - 1, " 7 ", 7.0):
        assert bind(workflow, {"prompt": "a", "seed": good}).seed == int(good)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_workflow_that_was_saved_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    folder = add_workflow(tmp_path) / "paint"
    for name in ("api.json", "workflow.toml"):
        content = (folder / name).read_text()
        (folder / name).write_bytes(content.encode(encoding))
    assert load("paint", settings.load({"RYLA_WORKFLOWS": str(tmp_path)})).title == "Paint"
    shutil.rmtree(folder)


def test_json_that_an_encoding_cannot_hold_is_escaped() -> None:
    value = {"p": "狐", "half": "a\ud83d", "n": float("nan")}
    for encoding in ("ascii", "utf-8", "cp1252", "no such thing"):
        line = text.json_line(value, encoding)
        assert "\n" not in line and json.loads(line) == {**value, "n": None}
    assert "狐" in text.json_line({"p": "狐"})
