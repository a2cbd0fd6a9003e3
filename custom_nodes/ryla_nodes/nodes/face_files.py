"""Keep an identity on disk, and take it from there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ..engines.protocol import current_engine
from ..engines.schema import aliases, io
from ..errors import RylaError
from . import reports, sockets

if TYPE_CHECKING:
    from pathlib import Path

    from ..identity.face_file import FaceIdentity

_NAME = re.compile(r"\w[\w .-]{0,63}")
_AS_SAVED = "as saved"
_SUFFIX = ".safetensors"
_NONE = "none yet: run Save Face, then press R"  # What the list shows when it would be empty.


class SaveFace(io.ComfyNode):
    """Output node: one safetensors file of a few kilobytes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_SaveFace",
            display_name="Save Face",
            category=sockets.CATEGORY,
            description="Saves an identity in the insightface folder, so that the photos are not needed again.",
            **aliases("identity", "face", "embedding"),
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
        return io.NodeOutput(ui=reports.text(f"saved as {path}"))


class LoadFace(io.ComfyNode):
    """A saved identity."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = [name for name in current_engine().folders().list("insightface") if name.lower().endswith(_SUFFIX)]
        return io.Schema(
            node_id="RYLA_LoadFace",
            display_name="Load Face",
            category=sockets.CATEGORY,
            description="Loads an identity that Save Face saved.",
            **aliases("identity", "face", "embedding"),
            inputs=[
                io.Combo.Input(
                    "file",
                    options=names or [_NONE],
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
    def validate_inputs(cls, file: str | None = None) -> bool:
        """Refuse before the job is queued, by raising: a message that is returned is told once an input."""
        if file is not None:  # Linked: known when the job runs.
            _found(file)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, combine: str) -> list[int]:
        """Load again when the file was replaced."""
        path = current_engine().folders().find("insightface", file)
        return [path.stat().st_mtime_ns] if path else []

    @classmethod
    def execute(cls, file: str, combine: str) -> io.NodeOutput:
        from ..identity.face_file import load_face

        path = _found(file)
        face = load_face(path)
        line = f"{reports.took('face', path)}, of {len(face.embeddings)} photos"
        return io.NodeOutput(face if combine == _AS_SAVED else replace(face, combine=combine), ui=reports.text(line))


def _found(file: str) -> Path:
    folders = current_engine().folders()
    path = folders.find("insightface", file)
    if path is None:
        what = "No face was saved yet" if file == _NONE else f"There is no saved face {file!r}"
        where = ", ".join(map(str, folders.get("insightface")))
        hint = "Make one: Face Embedding, then Save Face; then press R and choose it in Load Face."
        raise RylaError("unreadable_face", f"{what}: looked in {where}.", hint=hint)
    return path
