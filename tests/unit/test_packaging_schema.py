"""Node ids, inputs and outputs are public: saved workflows hold them by name and by place, so they only ever grow.

After adding an input or a node, record it: ``python tests/unit/test_packaging_schema.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ryla_nodes.engines.protocol import running_in
from ryla_nodes.models.folders import ModelFolders
from ryla_nodes.nodes import node_classes

RECORD = Path(__file__).resolve().parents[1] / "data" / "node_schemas.json"
Schema = dict[str, list[list[Any]]]


class Engine:
    """An engine without files, so that lists of files are empty."""

    name = "test"

    def folders(self) -> ModelFolders:
        return ModelFolders({})


def schemas() -> dict[str, Schema]:
    """Inputs (name, type, required, default, choices) and outputs (name, type) of every node, in order."""
    with running_in(Engine()):  # type: ignore[arg-type]
        return _schemas()


def _schemas() -> dict[str, Schema]:
    found = {}
    for cls in node_classes():
        schema = cls.GET_SCHEMA()
        inputs = []
        for item in schema.inputs or ():
            options = item.as_dict()
            inputs.append(
                [item.id, item.get_io_type(), not item.optional, options.get("default"), options.get("options")]
            )
        outputs = [[output.display_name, str(output.io_type)] for output in schema.outputs or ()]
        found[schema.node_id] = {"inputs": inputs, "outputs": outputs}
    return dict(sorted(found.items()))


def test_no_node_lost_or_changed_what_saved_workflows_hold() -> None:
    now = schemas()
    for name, recorded in json.loads(RECORD.read_text()).items():
        assert name in now, f"{name} is gone"
        for part, entries in recorded.items():
            assert now[name][part][: len(entries)] == entries, f"{name}: {part}"


def test_inputs_added_later_are_optional() -> None:
    recorded = json.loads(RECORD.read_text())
    for name, schema in schemas().items():
        added = schema["inputs"][len(recorded.get(name, schema)["inputs"]) :]
        assert [entry[0] for entry in added if entry[2]] == [], name


def test_everything_is_recorded() -> None:
    assert schemas() == json.loads(RECORD.read_text()), f"run: python {Path(__file__).name}"


if __name__ == "__main__":
    rows = {
        name: {part: [json.dumps(row) for row in rows] for part, rows in schema.items()}
        for name, schema in schemas().items()
    }
    text = json.dumps(rows, indent=1)
    for schema in rows.values():
        for row in (row for part in schema.values() for row in part):
            text = text.replace(json.dumps(row), row)  # One line an input.
    RECORD.write_text(text + "\n")
