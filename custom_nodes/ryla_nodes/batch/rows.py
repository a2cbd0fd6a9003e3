"""The rows of a batch: read from CSV or JSON lines, multiplied by seeds, each with a name of its own for life. Pure."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RylaError


@dataclass(frozen=True)
class Row:
    """One job of a batch.

    Attributes:
        key: what the row is, whatever its place in the file: the same row has the same key in the next run.
        index: its number, from 1.
        source: the row of the file, from 1; 0 without a file.
        values: the parameters as given; a seed only where one was given.
    """

    key: str
    index: int
    source: int
    values: Mapping[str, object]


def read(path: Path) -> list[dict[str, object]]:
    """Read a ``.csv`` (first line: parameter names; an empty cell: not given) or ``.jsonl`` (an object a line).

    Raises:
        RylaError: ``unreadable_file``, ``invalid_batch`` with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RylaError("invalid_batch", f"{path} is not UTF-8 text.", path=str(path)) from error
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror}.", path=str(path)) from error
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl", ".ndjson"):
        raise RylaError("invalid_batch", f"{path} is neither .csv nor .jsonl.", path=str(path))
    rows = _csv(path, text) if kind == ".csv" else _jsonl(path, text)
    if not rows:
        raise RylaError("invalid_batch", f"{path} has no rows.", path=str(path))
    return rows


def _csv(path: Path, text: str) -> list[dict[str, object]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, object]] = []
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if len(set(names)) != len(names) or not all(names):
            raise RylaError("invalid_batch", f"{path}: the first line has an empty or repeated column name.")
        reader.fieldnames = names
        for row in reader:
            if None in row or None in row.values():
                raise _line(path, reader.line_num, f"it does not have the {len(names)} cells of the first line")
            if any(row.values()):
                rows.append({name: cell for name, cell in row.items() if cell != ""})
    except csv.Error as error:
        raise _line(path, reader.line_num, str(error)) from error
    return rows


def _jsonl(path: Path, text: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _line(path, number, f"it is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise _line(path, number, "it is not an object")
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def _line(path: Path, number: int, why: str) -> RylaError:
    return RylaError("invalid_batch", f"{path}, line {number}: {why}.", path=str(path), line=number)


def expand(
    workflow: str,
    given: Sequence[Mapping[str, object]],
    common: Mapping[str, object],
    *,
    count: int = 1,
    seeds: Sequence[int] = (),
) -> list[Row]:
    """The jobs of a command: every given row (an empty one without a file), times ``count`` or each of ``seeds``.

    With ``count``, a row that has a seed uses it and the ones after it; otherwise every copy gets a random one.

    Args:
        common: parameters of the command line; a row's own win.

    Raises:
        RylaError: ``invalid_parameter`` for a seed that ``count`` cannot go on from.
    """
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    for source, own in enumerate(given or [{}], 1):
        merged = {**common, **own}
        for values in _copies(merged, count, seeds):
            # Equal rows, and copies whose seeds are random, are told apart by their order alone.
            digest = _digest([workflow, values])
            seen[digest] += 1
            key = f"{digest}-{seen[digest]}"
            rows.append(Row(key, len(rows) + 1, source if given else 0, values))
    return rows


def _copies(values: dict[str, object], count: int, seeds: Sequence[int]) -> Iterable[dict[str, object]]:
    if seeds:
        return [{**values, "seed": seed} for seed in seeds]
    if count == 1 or "seed" not in values:
        return [values] * count
    first = str(values["seed"]).strip()
    if not first.isdecimal():
        raise RylaError(
            "invalid_parameter", f'seed "{first}" is not a whole number, so {count} cannot be counted from it.'
        )
    return [{**values, "seed": int(first) + number} for number in range(count)]


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
