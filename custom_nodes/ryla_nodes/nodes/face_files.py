"""Keep an identity on disk, and take it from there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..engines.protocol import current_engine
from ..engines.schema import io
from ..errors import RylaError
from . import sockets

if TYPE_CHECKING:
    from ..identity.face_file import FaceIdentity

_NAME = re.compile(r"\w[\w .-]{0,63}")
_AS_SAVED = "as saved"


class SaveFace(io.ComfyNode):
    """Output node: one safetensors file of a few kilobytes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_SaveFace",
            display_name="Save Face",
            category=sockets.CATEGORY,
            description="Saves an identity in the insightface folder, so that the photos are not needed again.",
            inputs=[
                sockets.Face.Input("face", tooltip="The identity, from Face Embedding."),
                io.String.Input("name", default="face", tooltip="Its name. A face of this name is replaced."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, face: FaceIdentity, name: str) -> io.NodeOutput:
        from ..identity.face_file import save_face

        roots = current_engine().folders().get("insightface")
        if not _NAME.fullmatch(name) or not roots:
            raise RylaError(
                "invalid_parameter", f"A face cannot be called {name!r}: letters, digits, space, '-', '_', '.'."
            )
        path = roots[0] / "faces" / f"{name}.safetensors"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_face(face, path)
        except OSError as error:
            raise RylaError("not_writable", f"{path} cannot be written: {error.strerror or error}.") from error
        return io.NodeOutput(ui={"text": [f"saved as {path}"]})


class LoadFace(io.ComfyNode):
    """A saved identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = current_engine().folders().list("insightface")
        return io.Schema(
            node_id="RYLA_LoadFace",
            display_name="Load Face",
            category=sockets.CATEGORY,
            description="Loads an identity that Save Face saved.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[name for name in names if name.lower().endswith(".safetensors")],
                    tooltip="A saved face in the insightface folders.",
                ),
                io.Combo.Input(
                    "combine",
                    options=[_AS_SAVED, "mean", "concat"],
                    default=_AS_SAVED,
                    tooltip="How the embeddings of several photos are combined.",
                ),
            ],
            outputs=[sockets.Face.Output(display_name="face", tooltip="The identity.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, combine: str) -> list[int]:
        """Load again when the file was replaced."""
        path = current_engine().folders().find("insightface", file)
        return [path.stat().st_mtime_ns] if path else []

    @classmethod
    def execute(cls, file: str, combine: str) -> io.NodeOutput:
        from ..identity.face_file import load_face

        path = current_engine().folders().find("insightface", file)
        if path is None:
            raise RylaError("unreadable_face", f"No insightface folder holds {file}.")
        face = load_face(path)
        return io.NodeOutput(face if combine == _AS_SAVED else replace(face, combine=combine))
