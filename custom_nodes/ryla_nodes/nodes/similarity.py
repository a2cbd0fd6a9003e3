"""Measure whether the person in a picture is the one of the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engines.schema import io
from . import sockets, tensors

if TYPE_CHECKING:
    from ..identity.faces import FaceAnalyzer as Analyzer


class FaceSimilarity(io.ComfyNode):
    """Output node, so that the score is in the job's result beside the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FaceSimilarity",
            display_name="Face Similarity",
            category=sockets.CATEGORY,
            description="Compares the largest faces of two pictures with a recogniser that InstantID was not made "
            "with (buffalo_l's w600k_r50). A picture without a face fails. Genuine photos of one person score about "
            "0.46 to 0.75.",
            inputs=[
                sockets.analyzer(),
                io.Image.Input("reference", tooltip="The reference photo, or a batch; the best match counts."),
                io.Image.Input("image", tooltip="The picture to judge; of a batch the worst one counts."),
                io.Float.Input(
                    "threshold",
                    default=0.40,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Least cosine at which two faces count as the same person.",
                ),
            ],
            outputs=[
                io.Float.Output(display_name="similarity", tooltip="Cosine in [-1, 1]; 0 when no face was found."),
                io.Boolean.Output(display_name="passed", tooltip="Whether it reaches the threshold."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, analyzer: Analyzer, reference: Any, image: Any, threshold: float) -> io.NodeOutput:
        from ..identity.score import compare

        scores = compare(analyzer, tensors.to_pictures(reference), tensors.to_pictures(image))
        values = [0.0 if score is None else round(score, 4) for score in scores]
        passed = [score is not None and score >= threshold for score in scores]
        line = ", ".join("no face" if score is None else f"{score:.3f}" for score in scores)
        shown = {"face_similarity": values, "face_passed": passed, "text": [f"face similarity {line}"]}
        return io.NodeOutput(min(values), all(passed), ui=shown)
