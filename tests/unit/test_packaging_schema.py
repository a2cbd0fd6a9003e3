"""Node ids, inputs and outputs are public: saved workflows hold them by name and by place, so they only ever grow.

After adding an input or a node, record it: ``python scripts/record_schemas.py``.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from editor_graph import essence
from ryla_nodes.workflows.object_info import versions
from unit import workflows_comfy_cli as comfy_cli

REPO = Path(__file__).resolve().parents[2]
SAVED = REPO / "tests" / "data" / "saved_workflows"
Schema = dict[str, list[list[Any]]]
sys.path.insert(0, str(REPO / "scripts"))
record_schemas: Any = importlib.import_module("record_schemas")
broken = record_schemas.broken


def test_no_node_lost_or_changed_what_saved_workflows_hold() -> None:
    assert broken(record_schemas.recorded_schemas(), record_schemas.schemas()) == []


def test_everything_is_recorded() -> None:
    assert record_schemas.schemas() == record_schemas.recorded_schemas(), "run scripts/record_schemas.py"


RECORDED: dict[str, Schema] = {
    "RYLA_X": {
        "inputs": [["a", "INT", True, 1, None], ["b", "COMBO", False, "x", ["x", "y"]]],
        "outputs": [["out", "IMAGE"], ["mask", "MASK"]],
    }
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda node: node["inputs"][0].__setitem__(0, "c"), ["input a is gone", "input c is new and required"]),
        (lambda node: node["inputs"].reverse(), ["input a moved from", "input b moved from"]),
        (lambda node: node["inputs"].pop(1), ["input b is gone"]),
        (lambda node: node["inputs"][0].__setitem__(1, "FLOAT"), ["input a is FLOAT, was INT"]),
        (lambda node: node["inputs"][1].__setitem__(2, True), ["input b has become required"]),
        (lambda node: node["inputs"][1][4].remove("y"), ["input b no longer offers 'y'"]),
        (lambda node: node["inputs"][1].__setitem__(3, "z"), ["input b has the default 'z'"]),
        (lambda node: node["inputs"].append(["c", "INT", True, 0, None]), ["input c is new and required"]),
        (lambda node: node["outputs"].reverse(), ["output mask moved", "output out moved"]),
        (lambda node: node["outputs"].pop(), ["output mask is gone"]),
        (lambda node: node["outputs"][0].__setitem__(1, "LATENT"), ["output out is LATENT, was IMAGE"]),
    ],
)
def test_what_breaks_is_named(change: Callable[[Schema], None], said: list[str]) -> None:
    now = copy.deepcopy(RECORDED)
    change(now["RYLA_X"])
    lines = broken(RECORDED, now)
    assert len(lines) == len(said)
    for line, expected in zip(lines, said, strict=True):
        assert line.startswith(f"RYLA_X: {expected}")
    assert broken(RECORDED, {}) == ["RYLA_X is gone"]


def test_what_is_added_at_the_end_breaks_nothing() -> None:
    now = copy.deepcopy(RECORDED)
    now["RYLA_X"]["inputs"].append(["c", "INT", False, 0, None])
    now["RYLA_X"]["inputs"][1][4].append("z")
    now["RYLA_X"]["outputs"].append(["more", "INT"])
    now["RYLA_Y"] = {"inputs": [["a", "INT", True, 0, None]], "outputs": []}
    assert broken(RECORDED, now) == []


@pytest.mark.parametrize("name", ["flux-instantid", "sdxl-instantid"])
def test_a_workflow_that_was_saved_before_is_read_as_it_was(name: str) -> None:
    """Files as version 0.1.0 wrote them: values by place, links by socket."""
    read = comfy_cli.to_api(comfy_cli.find(), SAVED / f"{name}.json", versions()[-1])
    assert essence(read) == essence(json.loads((SAVED / f"{name}.api.json").read_text(encoding="utf-8")))


def test_a_break_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "node_schemas.json"
    monkeypatch.setattr(record_schemas, "RECORD", record)
    record.write_text(json.dumps(RECORDED), encoding="utf-8")
    with pytest.raises(SystemExit, match="RYLA_X is gone"):
        record_schemas.record()
    assert json.loads(record.read_text(encoding="utf-8")) == RECORDED
