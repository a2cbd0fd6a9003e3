"""An identity: the embeddings of one person's photos, and its safetensors file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RylaError
from ..files import write_whole
from .geometry import Array

_FORMAT = "ryla-face-1"


@dataclass(frozen=True, eq=False)
class FaceIdentity:
    """Raw antelopev2 embeddings (n, 512) of one person, and how they are combined.

    "mean" averages them; "concat" gives all of them to the Resampler, which attends over them.
    """

    embeddings: Array
    combine: str = "mean"

    @property
    def vectors(self) -> Array:
        """What the Resampler takes: (1, 1, 512), or (1, n, 512) with "concat"."""
        if self.combine == "concat":
            return self.embeddings[None]
        return np.asarray(self.embeddings.mean(axis=0, dtype=np.float64)[None, None], np.float32)

    @property
    def digest(self) -> str:
        """Equal for equal vectors: the key under which derived values are cached."""
        return hashlib.sha256(self.vectors.tobytes()).hexdigest()


def save_face(face: FaceIdentity, path: Path) -> None:
    """Write ``face`` as safetensors, whole or not at all."""
    from safetensors.numpy import save

    write_whole(path, save({"embeddings": face.embeddings}, {"format": _FORMAT, "combine": face.combine}))


def load_face(path: Path) -> FaceIdentity:
    """Read a file of ``save_face``. Raises ``unreadable_face`` when it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            embeddings = file.get_tensor("embeddings") if "embeddings" in file.keys() else None  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RylaError("unreadable_face", f"{path} cannot be read as a saved face: {error}.") from error
    if metadata.get("format") != _FORMAT or embeddings is None or embeddings.ndim != 2 or embeddings.shape[1] != 512:
        raise RylaError("unreadable_face", f"{path} is a safetensors file, but not a saved face.")
    return FaceIdentity(np.asarray(embeddings, np.float32), metadata.get("combine", "mean"))
