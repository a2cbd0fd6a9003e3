"""JSON for elsewhere: whatever a terminal's encoding makes of it."""

from __future__ import annotations

import json
import math
from typing import Any


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
