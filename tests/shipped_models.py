"""The shipped models where a ComfyUI looks for them."""

from __future__ import annotations

from pathlib import Path

from ryla_nodes.models import shipped
from ryla_nodes.models.identity_files import IdentityFiles

FLUX = "ryla-paint-flux.safetensors"
FACE = "a portrait of a person, tan skin, short black hair, no glasses, no beard, no hat, mint background"
"""A prompt of which the small FLUX makes a face."""


def identity(models: Path) -> IdentityFiles:
    """Link SDXL and InstantID into ``models``, the face models under the real ones' names: where they are then."""
    for folder in ("checkpoints", "instantid", "controlnet"):
        _link(shipped.ROOT / folder, models / folder)
    _link(shipped.insightface(), models / "insightface")
    checkpoint, adapter, control_net = (
        models / path.relative_to(shipped.ROOT) for path in map(shipped.path, shipped.IDENTITY)
    )
    return IdentityFiles(checkpoint, adapter, control_net, models / "insightface")


def flux(models: Path) -> None:
    """Link FLUX, without its LoRAs, into ``models``."""
    for folder in ("diffusion_models", "text_encoders", "vae"):
        _link(shipped.ROOT / folder, models / folder)


def _link(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
