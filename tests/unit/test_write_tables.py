"""The tables of docs/benchmarks.md that come from a run of the benchmarks for a GPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def write_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_tables", REPO / "benchmarks" / "write_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_of_a_kind_are_a_table_between_the_marks(write_tables: ModuleType, tmp_path: Path) -> None:
    rows = [
        {"row": "workflow", "mode": "stock", "first_s": 9.1, "warm_s": [3.5, 3.6], "of_stock": 1.0},
        {"row": "workflow", "mode": "exact", "first_s": 20.0, "warm_s": [2.5], "of_stock": 0.7},
        {"row": "identity", "process": "p", "run": "both, fast", "seconds": 4.9, "of_flux_dev": 1.4},
        {"row": "nothing known", "mode": "x"},
    ]
    (tmp_path / "speed.json").write_text(json.dumps(rows))
    (tmp_path / "step.json").write_text(json.dumps({"another": "form"}))
    document = f"before\n{write_tables.BEGIN}\nold\n{write_tables.END}\nafter\n"
    written = write_tables.written(document, write_tables.tables(write_tables.rows_in(tmp_path)))
    assert "| stock | 9.1 | 3.5, 3.6 | 1.0 |\n| exact | 20.0 | 2.5 | 0.7 |" in written
    assert "| p | both, fast | 4.9 | 1.4 |  |  |" in written
    assert written.startswith("before") and written.endswith("after\n") and "old" not in written
    assert write_tables.written(written, "again").count(write_tables.BEGIN) == 1


def test_the_document_has_the_marks(write_tables: ModuleType) -> None:
    write_tables.written((REPO / "docs" / "benchmarks.md").read_text(), "")
    with pytest.raises(ValueError, match="There is no"):
        write_tables.written("no marks", "")
