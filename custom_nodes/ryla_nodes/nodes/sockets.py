"""The socket types of the identity nodes, and inputs that several of them share."""

from __future__ import annotations

from ..engines.schema import io

InstantID = io.Custom("RYLA_INSTANTID")
FaceAnalyzer = io.Custom("RYLA_FACE_ANALYZER")
Face = io.Custom("RYLA_FACE")
Crop = io.Custom("RYLA_CROP")

CATEGORY = "RYLA/face"
MAX_FACES = 15


def analyzer() -> io.Input:
    """The face analyzer."""
    return FaceAnalyzer.Input("analyzer", tooltip="From RYLA Face Analyzer.")


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
