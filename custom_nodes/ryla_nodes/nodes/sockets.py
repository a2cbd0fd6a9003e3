"""What the face nodes share: socket types, inputs, the search for their files, and pictures as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.protocol import current_engine
from ..engines.schema import io
from ..errors import RylaError
from ..models import shipped
from ..models.identity_files import IdentitySearch

if TYPE_CHECKING:
    import torch

    from ..identity.faces import Picture
    from ..identity.geometry import Array

InstantID = io.Custom("RYLA_INSTANTID")
FaceAnalyzer = io.Custom("RYLA_FACE_ANALYZER")
Face = io.Custom("RYLA_FACE")
Crop = io.Custom("RYLA_CROP")

CATEGORY = "RYLA/face"
MAX_FACES = 15


def analyzer() -> io.Input:
    """The face analyzer."""
    return FaceAnalyzer.Input("analyzer", tooltip="From Face Analyzer (InsightFace).")


def which_face() -> list[io.Input]:
    """Which of several faces is meant."""
    return [
        io.Combo.Input(
            "order",
            options=["size", "left-to-right"],
            default="size",
            tooltip="How faces are counted: by size, the largest first, or from left to right.",
        ),
        io.Int.Input("index", default=0, min=0, max=MAX_FACES, tooltip="Number of the face in that order, from 0."),
    ]


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value of a list that ``validate_inputs`` names, which the engine then leaves to it; None is a link."""
    if value is not None and value not in choices:
        raise RylaError("invalid_parameter", f"{name} is {value!r}; it is one of {', '.join(choices)}.")


def identity_search() -> IdentitySearch:
    """The search for SDXL's, InstantID's and the face models in the engine's folders, then its own small ones."""
    engine = current_engine()
    return IdentitySearch(engine.folders(), engine.default_identity())


def require_face_model(find: Callable[[Sequence[Path]], Path]) -> None:
    """Raise what ``find`` does when the insightface folders lack it; ``damaged_package`` where the engine's own do."""
    search = identity_search()
    try:
        ours = shipped.holds(find(search.insightface()))
    except RylaError:
        if search.own is not None:
            shipped.require()
        raise
    if ours:
        shipped.require()


def to_pictures(images: torch.Tensor) -> list[Picture]:
    """IMAGE (B, H, W, 3 or 4) in [0, 1] -> uint8 RGB pictures."""
    import numpy as np

    arrays = images[..., :3].detach().cpu().float().numpy()
    return [np.asarray(np.round(np.clip(array, 0, 1) * 255), np.uint8) for array in arrays]


def to_arrays(images: torch.Tensor) -> list[Array]:
    """IMAGE -> float32 RGB arrays (H, W, 3), values as they are."""
    return list(images[..., :3].detach().cpu().float().numpy())


def from_arrays(arrays: Sequence[Any]) -> torch.Tensor:
    """Arrays of one shape -> a float32 batch; uint8 becomes [0, 1]."""
    import numpy as np
    import torch

    stacked = np.stack(arrays)
    return torch.from_numpy(stacked.astype(np.float32) / (255 if stacked.dtype == np.uint8 else 1))
