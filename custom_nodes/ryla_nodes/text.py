"""Text from elsewhere, and text for elsewhere: whatever Windows, a spreadsheet or a terminal makes of it."""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16's, which is its beginning.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 400
_LINE_END = re.compile("\r\n?")


def decoded(data: bytes) -> str:
    """A text file's content without its byte order mark: UTF-8, or UTF-16 and UTF-32 as Windows writes them.

    Raises:
        UnicodeDecodeError: it is none of these.
    """
    return data.decode(_encoding(data))


def read(path: Path) -> str:
    """The text of a file, its lines ended by ``\\n`` alone: see ``decoded``.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    return _LINE_END.sub("\n", decoded(path.read_bytes()))


def _encoding(data: bytes) -> str:
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    # Half of the bytes of Latin text in UTF-16 are 0; no text in UTF-8 has any.
    head = data[:_LOOKED_AT]
    zeros = [head[start::2].count(0) for start in (0, 1)]
    if max(zeros) * 4 > len(head) and min(zeros) == 0:
        return "utf-16-le" if zeros[1] else "utf-16-be"
    return "utf-8"


def json_line(value: Any, encoding: str = "utf-8", *, indent: int | None = None) -> str:
    """``value`` as JSON that ``encoding`` can hold: readable where it can, escaped where it cannot; in one line.

    What JSON does not know becomes its text, NaN and infinity become null.
    """
    try:
        line = _dumps(value, readable=True, indent=indent)
        line.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return _dumps(value, readable=False, indent=indent)
    return line


def _dumps(value: Any, *, readable: bool, indent: int | None) -> str:
    try:
        return json.dumps(value, ensure_ascii=not readable, default=str, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=not readable, default=str, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
