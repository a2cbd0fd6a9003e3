"""Record what saved workflows hold of the nodes: ``tests/data/node_schemas.json``.

    python scripts/record_schemas.py

Node ids, inputs and outputs are public: saved workflows hold them by name and by place, so they only ever grow. What
would break one is named, and not recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from make_locales import node_schemas

RECORD = Path(__file__).resolve().parents[1] / "tests" / "data" / "node_schemas.json"
Schema = dict[str, list[list[Any]]]
"""``inputs``: name, type, required, default, choices of each, in order; ``outputs``: name and type."""


def record() -> None:
    """Write the record, unless that would hide a break."""
    now = schemas()
    lost = broken(recorded_schemas(), now)
    if lost:
        raise SystemExit("\n".join([*lost, "Not recorded: saved workflows would break."]))
    rows = {
        name: {part: [json.dumps(row) for row in rows] for part, rows in node.items()} for name, node in now.items()
    }
    text = json.dumps(rows, indent=1)
    for node in rows.values():
        for row in (row for part in node.values() for row in part):
            text = text.replace(json.dumps(row), row)  # One line an input.
    RECORD.write_text(text + "\n", encoding="utf-8")


def schemas() -> dict[str, Schema]:
    """Those of every node as it is now; lists of files are empty."""
    found = {}
    for schema in node_schemas():
        inputs = []
        for item in schema.inputs or ():
            options = item.as_dict()
            inputs.append(
                [item.id, item.get_io_type(), not item.optional, options.get("default"), options.get("options")]
            )
        outputs = [[output.display_name, str(output.io_type)] for output in schema.outputs or ()]
        found[schema.node_id] = {"inputs": inputs, "outputs": outputs}
    return found


def recorded_schemas() -> dict[str, Schema]:
    return dict(json.loads(RECORD.read_text(encoding="utf-8")))


def broken(recorded: dict[str, Schema], now: dict[str, Schema]) -> list[str]:
    """What saved workflows hold and would no longer find, by node and name."""
    lost = [f"{name} is gone" for name in recorded if name not in now]
    for name in recorded.keys() & now.keys():
        lost += [f"{name}: {line}" for line in _broken_inputs(recorded[name]["inputs"], now[name]["inputs"])]
        lost += [f"{name}: {line}" for line in _broken_outputs(recorded[name]["outputs"], now[name]["outputs"])]
    return sorted(lost)


def _broken_inputs(recorded: list[list[Any]], now: list[list[Any]]) -> Iterator[str]:
    places = {entry[0]: place for place, entry in enumerate(now)}
    for place, (name, kind, required, _, choices) in enumerate(recorded):
        if name not in places:
            yield f"input {name} is gone"
            continue
        _, kind_now, required_now, default, choices_now = now[places[name]]
        if places[name] != place:
            yield f"input {name} moved from place {place} to {places[name]}: saved values are by place"
        if kind_now != kind:
            yield f"input {name} is {kind_now}, was {kind}"
        if required_now and not required:
            yield f"input {name} has become required"
        for choice in choices or ():
            if choice not in (choices_now or ()):
                yield f"input {name} no longer offers {choice!r}"
        if choices_now and default is not None and default not in choices_now:
            yield f"input {name} has the default {default!r}, which it does not offer"
    known = {entry[0] for entry in recorded}
    yield from (f"input {entry[0]} is new and required" for entry in now if entry[0] not in known and entry[2])


def _broken_outputs(recorded: list[list[Any]], now: list[list[Any]]) -> Iterator[str]:
    names = [name for name, _ in now]
    for place, (name, kind) in enumerate(recorded):
        if name not in names:
            yield f"output {name} is gone"
        elif names.index(name) != place:
            yield f"output {name} moved from place {place} to {names.index(name)}: saved links are by place"
        elif now[place][1] != kind:
            yield f"output {name} is {now[place][1]}, was {kind}"


if __name__ == "__main__":
    record()
