"""The node classes of the oldest and the newest ComfyUI that we test, recorded, so that a graph can be judged offline.

Types, ranges and choices only: no texts, and where a choice is a file on somebody's disk, no list.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

_FOLDER = files(__package__) / "recorded"


def versions() -> tuple[str, ...]:
    """The recorded ComfyUI versions, oldest first."""
    names = [entry.name.removesuffix(".json") for entry in _FOLDER.iterdir() if entry.name.endswith(".json")]
    return tuple(sorted(names, key=lambda name: [int(part) for part in name.split(".")]))


@cache
def object_info(version: str) -> dict[str, Any]:
    """The recorded ``/object_info`` of one of ``versions()``; shared, so not to be changed."""
    recorded: dict[str, Any] = json.loads((_FOLDER / f"{version}.json").read_text(encoding="utf-8"))
    return recorded
