"""Between the engine's tensors and the arrays that the identity code works on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..identity.faces import Picture
    from ..identity.geometry import Array


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
