"""Cut a face out of a picture, and put the rendered one back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..engines.schema import aliases, io
from ..errors import RylaError
from . import reports, sockets
from .sockets import identity_search

if TYPE_CHECKING:
    from ..identity.crop import FaceCrop as Crop
    from ..identity.faces import DetectedFace, Picture
    from ..identity.faces import FaceAnalyzer as Analyzer

# Where a face keeps its place when there is none: the middle of the picture.
_NO_FACE_SHARE = 0.4
_SIZE, _LEAST_SIZE = 1016, 256
_SIZE_OF_SMALL_SDXL = 512


class FaceCrop(io.ComfyNode):
    """The square around a face that the second stage renders anew."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FaceCrop",
            display_name="Face Crop",
            category=sockets.CATEGORY,
            description="Cuts a square around a face and enlarges it to the sampling size, with its keypoints and a "
            "soft mask over the face.",
            **aliases("identity", "face detailer", "face swap"),
            inputs=[
                sockets.analyzer(),
                io.Image.Input("image", tooltip="The picture whose face is to be replaced."),
                io.Float.Input(
                    "crop_factor",
                    default=2.2,
                    min=1.2,
                    max=5.0,
                    step=0.1,
                    tooltip="Side of the square relative to the face's longer side. At 2.2 the face fills near half "
                    "of it.",
                ),
                io.Int.Input(
                    "size",
                    default=1016,
                    min=0,
                    max=2048,
                    step=8,
                    tooltip="Side in pixels at which the face is rendered. SDXL wants about 1000; exactly 1024 "
                    "brings out InstantID's watermarks. 0 is 1016, and 512 for the embedded engine's own SDXL.",
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=["error", "pass"],
                    default="error",
                    tooltip="error stops the job when there is no face, or one under 64 px. pass leaves the picture "
                    "as it is.",
                ),
                *sockets.which_face(),
            ],
            outputs=[
                io.Image.Output(display_name="crop", tooltip="The enlarged square."),
                io.Image.Output(display_name="keypoints", tooltip="Its keypoints, for Apply InstantID."),
                io.Mask.Output(display_name="mask", tooltip="Soft mask over the face, for SetLatentNoiseMask."),
                sockets.Crop.Output(display_name="placement", tooltip="Where it belongs, for Face Composite."),
            ],
        )

    @classmethod
    def execute(
        cls, analyzer: Analyzer, image: Any, crop_factor: float, size: int, on_no_face: str, order: str, index: int
    ) -> io.NodeOutput:
        import numpy as np

        from ..identity import crop as crops
        from ..identity.drawing import overlay
        from ..identity.geometry import draw_keypoints

        size, remark = _rendered_at(size)
        cuts, hints, masks, placements = [], [], [], []
        lines, seen = [remark], []
        for picture, array in zip(sockets.to_pictures(image), sockets.to_arrays(image), strict=True):
            height, width = picture.shape[:2]
            faces = analyzer.faces(picture)
            face = _face(analyzer, picture, order, index, on_no_face)
            box = _middle(width, height) if face is None else face.box
            plan = crops.plan_crop(box, width, height, crop_factor=crop_factor, size=size)
            cuts.append(crops.resize(crops.cut(array, plan), size, size))
            if face is None:
                hints.append(np.zeros((size, size, 3), np.uint8))
                masks.append(np.zeros((size, size), np.float32))
            else:
                hints.append(draw_keypoints(plan.affine.points(face.keypoints), size, size))
                masks.append(crops.ellipse_mask(plan.affine.box(face.box), size, size))
            placements.append(None if face is None else plan)
            lines.append(_told(face, len(faces), plan))
            seen.append((picture, faces, face, plan))
        return io.NodeOutput(
            sockets.from_arrays(cuts),
            sockets.from_arrays(hints),
            sockets.from_arrays(masks),
            tuple(placements),
            ui={**reports.text(*lines), **reports.pictures(overlay(*each) for each in seen)},
        )


class FaceComposite(io.ComfyNode):
    """Put the rendered face back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FaceComposite",
            display_name="Face Composite",
            category=sockets.CATEGORY,
            description="Puts a rendered face back into the picture: scaled down, matched in colour, with a soft "
            "edge. Outside the mask no pixel changes.",
            **aliases("identity", "paste face", "face swap"),
            inputs=[
                io.Image.Input("image", tooltip="The picture that was cut from."),
                io.Image.Input(
                    "refined", lazy=True, tooltip="The rendered square. Not rendered when there was no face."
                ),
                sockets.Crop.Input("placement", tooltip="From Face Crop."),
                io.Float.Input(
                    "color_match",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far the face takes the colours of the picture around it (in Lab). 0 leaves it as "
                    "rendered.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture with the new face.")],
        )

    @classmethod
    def check_lazy_status(
        cls, image: Any, placement: tuple[Crop | None, ...], color_match: float, refined: Any = None
    ) -> list[str]:
        """Ask for the rendering only when there is a face to put back."""
        return ["refined"] if refined is None and any(plan is not None for plan in placement) else []

    @classmethod
    def execute(
        cls, image: Any, placement: tuple[Crop | None, ...], color_match: float, refined: Any = None
    ) -> io.NodeOutput:
        from ..identity.crop import composite

        if all(plan is None for plan in placement):
            return io.NodeOutput(image)
        pictures, faces = sockets.to_arrays(image), sockets.to_arrays(refined)
        if not len(pictures) == len(faces) == len(placement):
            counts = f"{len(pictures)} pictures, {len(faces)} faces and {len(placement)} placements"
            raise RylaError("invalid_parameter", f"Face Composite was given {counts}; they must be as many.")
        results = [
            picture if plan is None else composite(picture, face, plan, color_match=color_match)
            for picture, face, plan in zip(pictures, faces, placement, strict=True)
        ]
        return io.NodeOutput(sockets.from_arrays(results))


def _rendered_at(size: int) -> tuple[int, str]:
    """The size to render at, and what the user should know of it."""
    if size == 0 and identity_search().only_own_checkpoint():
        return _SIZE_OF_SMALL_SDXL, f"rendered at {_SIZE_OF_SMALL_SDXL} px by the engine's own small SDXL"
    if 0 < size < _LEAST_SIZE:
        raise RylaError("invalid_parameter", f"Face Crop's size is {size}; it is 0 or at least {_LEAST_SIZE}.")
    return size or _SIZE, ""


def _face(analyzer: Analyzer, picture: Picture, order: str, index: int, on_no_face: str) -> DetectedFace | None:
    from ..identity.faces import select_face

    try:
        return select_face(analyzer.faces(picture), order=order, index=index, where="the picture")
    except RylaError as error:
        if on_no_face == "pass" and error.code in ("no_face", "face_too_small"):
            return None
        raise


def _told(face: DetectedFace | None, count: int, plan: Crop) -> str:
    """What was found in a picture, and what is rendered of it."""
    if face is None:
        return f"no face to replace ({count} found): the picture stays as it is"
    return f"{reports.face(face, count)}; its square of {plan.side} px is rendered at {plan.size} px"


def _middle(width: int, height: int) -> Any:
    from ..identity.geometry import Box

    half = min(width, height) * _NO_FACE_SHARE / 2
    return Box(width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
