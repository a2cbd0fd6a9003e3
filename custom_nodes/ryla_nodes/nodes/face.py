"""Find faces, make an identity or a pose of them, and measure whether two pictures show one person."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..engines.schema import aliases, io
from ..models import missing
from ..models.identity_files import find_pack, find_scorer
from . import reports, sockets
from .sockets import identity_search

if TYPE_CHECKING:
    from ..identity.faces import FaceAnalyzer as Analyzer
    from ..identity.faces import Picture


class FaceAnalyzer(io.ComfyNode):
    """InsightFace with antelopev2."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FaceAnalyzer",
            display_name="Face Analyzer (InsightFace)",
            category=sockets.CATEGORY,
            description="Loads InsightFace's antelopev2 detector and recogniser from any insightface folder, once.",
            **aliases("insightface", "identity", "face detection", "antelopev2"),
            inputs=[
                io.Combo.Input(
                    "provider",
                    options=["auto", "CPU", "CUDA"],
                    default="CPU",
                    tooltip="Where faces are analysed. CPU takes a fraction of a second and leaves the GPU's memory "
                    "to the picture. CUDA falls back to the CPU when onnxruntime cannot use it.",
                )
            ],
            outputs=[sockets.FaceAnalyzer.Output(display_name="analyzer", tooltip="For the other face nodes.")],
        )

    @classmethod
    def validate_inputs(cls, provider: str | None = None) -> bool:
        """Refuse before the job is queued where InsightFace or its files are missing."""
        from ..identity import runtime

        sockets.require_choice("provider", provider, runtime.PROVIDERS)
        missing.require((runtime.require_installed, partial(sockets.require_face_model, find_pack)))
        return True

    @classmethod
    def execute(cls, provider: str) -> io.NodeOutput:
        from ..identity.faces import FaceAnalyzer as Analyzer

        roots = identity_search().insightface()
        analyzer = Analyzer(find_pack(roots), provider, roots)
        took = reports.took("antelopev2", analyzer.pack)
        return io.NodeOutput(analyzer, ui=reports.text(took, analyzer.remark))


class FaceEmbed(io.ComfyNode):
    """One identity from one or several photos."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FaceEmbed",
            display_name="Face Embedding (Identity)",
            category=sockets.CATEGORY,
            description="Makes an identity from one or several photos of a person. Every photo must show a face of "
            "at least 64 px.",
            **aliases("identity", "face", "insightface", "reference photo"),
            inputs=[
                sockets.analyzer(),
                io.Image.Input("images", tooltip="One photo, or a batch of photos of the same person."),
                io.Combo.Input(
                    "combine",
                    options=["mean", "concat"],
                    default="mean",
                    tooltip="Several photos: mean averages the embeddings. concat lets InstantID attend over all of "
                    "them.",
                ),
                *sockets.which_face(),
                sockets.Face.Input(
                    "also", optional=True, tooltip="An identity to add to: photos of the same person in another size."
                ),
            ],
            outputs=[sockets.Face.Output(display_name="face", tooltip="The identity.")],
        )

    @classmethod
    def execute(
        cls, analyzer: Analyzer, images: Any, combine: str, order: str, index: int, also: Any = None
    ) -> io.NodeOutput:
        import numpy as np

        from ..identity.face_file import FaceIdentity
        from ..identity.faces import select_face

        found = [also.embeddings] if also is not None else []
        lines = []
        pictures = sockets.to_pictures(images)
        for number, picture in enumerate(pictures, 1):
            where = "the reference photo" if len(pictures) == 1 else f"reference photo {number} of {len(pictures)}"
            faces = analyzer.faces(picture)
            face = select_face(faces, order=order, index=index, where=where)
            found.append(face.embedding[None])
            lines.append(f"{where}: {reports.face(face, len(faces))}")
        return io.NodeOutput(FaceIdentity(np.concatenate(found), combine), ui=reports.text(*lines))


class FaceKeypoints(io.ComfyNode):
    """The keypoint picture for a whole new picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FaceKeypoints",
            display_name="Face Keypoints",
            category=sockets.CATEGORY,
            description="Takes the pose of a face and places it in a new picture, as the keypoints that InstantID's "
            "ControlNet follows. Width and height must be those of the latent.",
            **aliases("identity", "pose", "landmarks"),
            inputs=[
                sockets.analyzer(),
                io.Image.Input(
                    "image", tooltip="A picture with the pose to follow: the reference photo or another one."
                ),
                io.Int.Input("width", default=1016, min=256, max=2048, step=8, tooltip="Width of the new picture."),
                io.Int.Input("height", default=1016, min=256, max=2048, step=8, tooltip="Height of the new picture."),
                io.Float.Input(
                    "face_size",
                    default=0.40,
                    min=0.1,
                    max=0.9,
                    step=0.01,
                    tooltip="Height of the face as a part of the picture's: 0.6 is a close-up, 0.2 shows the upper "
                    "body.",
                ),
                io.Float.Input(
                    "center_x", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="The face's place across."
                ),
                io.Float.Input("center_y", default=0.42, min=0.0, max=1.0, step=0.01, tooltip="The face's place down."),
                *sockets.which_face(),
            ],
            outputs=[io.Image.Output(display_name="keypoints", tooltip="For Apply InstantID.")],
        )

    @classmethod
    def execute(
        cls,
        analyzer: Analyzer,
        image: Any,
        width: int,
        height: int,
        face_size: float,
        center_x: float,
        center_y: float,
        order: str,
        index: int,
    ) -> io.NodeOutput:
        from ..identity.faces import select_face
        from ..identity.geometry import draw_keypoints, place_keypoints

        drawn = []
        for picture in sockets.to_pictures(image):
            face = select_face(analyzer.faces(picture), order=order, index=index, where="the pose picture")
            points = place_keypoints(face.keypoints, width, height, face_height=face_size, center=(center_x, center_y))
            drawn.append(draw_keypoints(points, width, height))
        return io.NodeOutput(sockets.from_arrays(drawn))


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
            **aliases("identity", "likeness", "compare faces"),
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
    def validate_inputs(cls, analyzer: Any = None) -> bool:
        """Refuse before the job is queued without the recogniser that scores; the link is named to be asked at all."""
        sockets.require_face_model(find_scorer)
        return True

    @classmethod
    def execute(cls, analyzer: Analyzer, reference: Any, image: Any, threshold: float) -> io.NodeOutput:
        from ..identity.similarity import compare

        references, pictures = sockets.to_pictures(reference), sockets.to_pictures(image)
        matches = compare(analyzer, references, pictures)
        scores = [match.similarity for match in matches]
        values = [0.0 if score is None else round(score, 4) for score in scores]
        passed = [score is not None and score >= threshold for score in scores]
        line = ", ".join("no face" if score is None else f"{score:.3f}" for score in scores)
        told = {"face_similarity": values, "face_passed": passed, **reports.text(f"face similarity {line}")}
        drawn = (
            _beside(analyzer, references[match.reference], picture, match.similarity, good)
            for match, picture, good in zip(matches, pictures, passed, strict=True)
        )
        return io.NodeOutput(min(values), all(passed), ui={**told, **reports.pictures(drawn)})


def _beside(analyzer: Analyzer, reference: Picture, picture: Picture, score: float | None, passed: bool) -> Picture:
    from ..identity.drawing import side_by_side

    found = analyzer.faces(picture)
    known = analyzer.faces(reference)[0].box
    return side_by_side(reference, known, picture, found[0].box if found else None, score, passed)
