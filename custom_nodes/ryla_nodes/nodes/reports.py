"""What nodes tell of their work: lines of text for the history, which the editor's extension shows on the node."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.protocol import current_engine

if TYPE_CHECKING:
    from ..identity.faces import DetectedFace, Picture


def text(*lines: str) -> dict[str, list[str]]:
    """The report of a node, one fact a line; empty lines are left out."""
    return {"text": ["\n".join(filter(None, lines))]}


def pictures(drawn: Iterable[Picture]) -> dict[str, Any]:
    """Pictures of what a node found, drawn only where there is an editor to show them."""
    shown = current_engine().preview(drawn)
    return {"images": shown} if shown else {}


def took(what: str, path: Path) -> str:
    """Which file a loader took, and from where."""
    return f"{what}: {path.name} from {path.parent}"


def face(found: DetectedFace, count: int) -> str:
    """A face by its size, of ``count`` in its picture."""
    size = f"a face of {found.box.width:.0f} x {found.box.height:.0f} px"
    return size if count == 1 else f"{size}, of {count} that were found"
