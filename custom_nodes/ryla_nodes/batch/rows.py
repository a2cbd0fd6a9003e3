"""The rows of a batch: read from CSV or JSON lines, multiplied by seeds, each with a name of its own for life. Pure."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RylaError
from ..files import read_text

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_SEPARATORS = (",", ";", "\t")
_SEPARATOR = re.compile(r'"?sep=(.)"?')


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

    As spreadsheets write them, too: UTF-16, ``;`` or tabs between the cells, ``sep=;`` in the first line.

    Raises:
        RylaError: ``unreadable_file``, ``invalid_batch`` with the line.
    """
    kind = path.suffix.lower()
    try:
        content = read_text(path)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        hint = "Save it as UTF-8; in Excel as: CSV UTF-8."
        raise RylaError("invalid_batch", f"{path}, line {line}: it is not UTF-8 text.", hint=hint, line=line) from error
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror}.", path=str(path)) from error
    if kind not in (".csv", ".tsv", ".jsonl", ".ndjson"):
        raise RylaError("invalid_batch", f"{path} is neither .csv nor .jsonl.", path=str(path))
    rows = _csv(path, content) if kind in (".csv", ".tsv") else _jsonl(path, content)
    if not rows:
        raise RylaError("invalid_batch", f"{path} has no rows.", path=str(path))
    return rows


def _csv(path: Path, content: str) -> list[dict[str, object]]:
    lines = iter(_LINES.findall(content))
    first, head = 0, ""
    separator = ""
    for first, head in enumerate(lines, 1):  # noqa: B007
        told = _SEPARATOR.fullmatch(head.strip("\n"))
        if told is not None and not separator:
            separator = told[1]
        elif head.strip():
            break
    else:
        raise RylaError("invalid_batch", f"{path} has no rows: not even a line of names.", path=str(path))
    separator = separator or max(_SEPARATORS, key=head.count)
    reader = csv.reader(itertools.chain([head], lines), delimiter=separator, strict=True)
    names: list[str] = []
    rows: list[dict[str, object]] = []
    before = 0
    try:
        for cells in reader:
            line, before = first + before, reader.line_num
            if not names:
                names = _names(path, line, cells)
            elif any(cells):
                rows.append(_cells(path, line, names, cells))
    except csv.Error as error:
        raise _line(path, first + before, str(error)) from error
    return rows


def _names(path: Path, line: int, cells: list[str]) -> list[str]:
    """The column names; empty ones at the end are cells that a spreadsheet thinks were used."""
    names = [name.strip() for name in cells]
    while names and not names[-1]:
        names.pop()
    if not names or len(set(names)) != len(names) or not all(names):
        raise _line(path, line, "there is an empty or repeated column name")
    return names


def _cells(path: Path, line: int, names: list[str], cells: list[str]) -> dict[str, object]:
    if len(cells) < len(names) or any(cells[len(names) :]):
        raise _line(path, line, f"it does not have the {len(names)} cells of the line of names")
    return {name: cell for name, cell in zip(names, cells, strict=False) if cell != ""}


def _jsonl(path: Path, content: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    # JSON texts may hold what str.splitlines takes for the end of a line.
    for number, line in enumerate(_LINES.findall(content), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_number, object_pairs_hook=_object)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise _line(path, number, "it has half of a character (a lone surrogate)") from error
        except RecursionError as error:
            raise _line(path, number, "it is nested too deep") from error
        except ValueError as error:
            raise _line(path, number, f"it is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise _line(path, number, "it is not an object")
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number there")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f'"{twice}" is given twice')
    return found


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
    line = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    # A stray byte of the command line is refused where its parameter is known.
    return hashlib.sha256(line.encode(errors="surrogatepass")).hexdigest()[:16]
