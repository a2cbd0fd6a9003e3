"""Unfinished pictures that an engine sends while it samples: binary frames of its websocket."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

_PREVIEW = 1
_PREVIEW_WITH_METADATA = 4
_TYPES = {1: "image/jpeg", 2: "image/png"}


@dataclass(frozen=True)
class Preview:
    """A small picture of what a job is at.

    Attributes:
        type: ``image/jpeg`` or ``image/png``.
        prompt_id: whose it is; "" when the engine does not say.
    """

    data: bytes = field(repr=False)
    type: str
    prompt_id: str = ""


OnPreview = Callable[[Preview], None]


def parse_preview(frame: bytes) -> Preview | None:
    """Read one binary frame; None for another kind, and for what cannot be read.

    All numbers are big-endian, of 32 bits. Kind 1 is followed by the format (1 JPEG, 2 PNG) and the picture, kind 4
    by the length of a JSON object, the object (``image_type``, ``prompt_id``) and the picture.
    """
    kind, second, rest = _number(frame, 0), _number(frame, 4), frame[8:]
    if kind == _PREVIEW:
        return Preview(rest, _TYPES[second]) if second in _TYPES and rest else None
    if kind != _PREVIEW_WITH_METADATA or len(rest) <= second:
        return None
    try:
        told = json.loads(rest[:second])
        known = told["image_type"] in _TYPES.values()
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Preview(rest[second:], told["image_type"], str(told.get("prompt_id") or "")) if known else None


def _number(frame: bytes, offset: int) -> int:
    return int.from_bytes(frame[offset : offset + 4], "big")
