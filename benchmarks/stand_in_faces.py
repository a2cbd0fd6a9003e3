"""A ComfyUI node for benchmarks: a face analyzer that sees a face in the middle of every picture."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any


class StandInAnalyzer:
    """Its faces are always in the same place, and always the same person."""

    def faces(self, picture: Any) -> list[Any]:
        import numpy as np

        geometry = next(m for name, m in sys.modules.items() if name.endswith("ryla_nodes.identity.geometry"))
        height, width = picture.shape[:2]
        side = min(height, width) * 0.3
        box = geometry.Box(width / 2 - 0.4 * side, height / 2 - side / 2, width / 2 + 0.4 * side, height / 2 + side / 2)
        points = np.array([[-0.17, -0.08], [0.17, -0.08], [0, 0.12], [-0.14, 0.31], [0.14, 0.31]], np.float32)
        keypoints = points * side + np.array([width / 2, height / 2], np.float32)
        embedding = 20 * np.random.default_rng(0).standard_normal(512).astype(np.float32)
        return [SimpleNamespace(box=box, keypoints=keypoints, score=0.9, embedding=embedding)]

    def scoring_embedding(self, picture: Any, face: Any) -> Any:
        return face.embedding


class StandInFaceAnalyzer:
    RETURN_TYPES = ("RYLA_FACE_ANALYZER",)
    FUNCTION = "make"
    CATEGORY = "RYLA/benchmark"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[StandInAnalyzer]:
        return (StandInAnalyzer(),)


NODE_CLASS_MAPPINGS = {"RYLA_StandInFaceAnalyzer": StandInFaceAnalyzer}
