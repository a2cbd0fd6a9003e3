"""The shipped SDXL, InstantID and face models where a ComfyUI looks for them."""

from __future__ import annotations

from pathlib import Path

from ryla_nodes.models import shipped
from ryla_nodes.models.identity_files import IdentityFiles


def place(models: Path) -> IdentityFiles:
    """Link them into the folder ``models``, the face models under the real ones' names: where they are then."""
    for folder in ("checkpoints", "instantid", "controlnet"):
        _link(shipped.ROOT / folder, models / folder)
    _link(shipped.insightface(), models / "insightface")
    parts = (models / path.relative_to(shipped.ROOT) for path in map(shipped.path, shipped.IDENTITY))
    return IdentityFiles(*parts, models / "insightface")


def _link(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
