"""Save pictures as what they are called, with the workflow in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engines.protocol import current_engine
from ..engines.schema import io
from .image_file import FORMATS, encode, to_pillow, write


class SaveImage(io.ComfyNode):
    """Output node: JPEG, WebP or PNG files, listed under ``images`` for every client."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_SaveImage",
            display_name="Save Image (JPEG, WebP, PNG)",
            category="RYLA/image",
            description="Saves pictures as JPEG, WebP or PNG in the output folder, with the workflow inside if wanted.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save, one file each."),
                io.String.Input(
                    "filename_prefix",
                    default="RYLA",
                    tooltip="Start of the file name; folders with '/'. Knows %width%, %height%, %year%, %month%, "
                    "%day%, %hour%, %minute%, %second% and %batch_num%.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="jpeg",
                    tooltip="jpeg: small, opens everywhere. webp: smaller, slower to write. png: lossless, large.",
                ),
                io.Int.Input(
                    "quality",
                    default=92,
                    min=1,
                    max=100,
                    tooltip="Quality of jpeg and webp, 1 to 100. From 95 on jpeg keeps full colour resolution. "
                    "Without effect on png.",
                ),
                io.Boolean.Input(
                    "metadata",
                    default=True,
                    tooltip="Store the prompt and the workflow in the file, so that the editor loads them when it is "
                    "dropped there. Off also when ComfyUI runs with --disable-metadata.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any, filename_prefix: str, format: str, quality: int, metadata: bool) -> io.NodeOutput:  # noqa: A002
        height, width = images.shape[1:3]
        engine = current_engine()
        target = engine.save_target(filename_prefix, width, height)
        texts = _texts(cls.hidden.prompt, cls.hidden.extra_pnginfo) if metadata and target.metadata else {}
        saved = []
        for index, image in enumerate(images):
            engine.check_interrupt()
            name = f"{target.name.replace('%batch_num%', str(index))}_{target.counter + index:05}_{FORMATS[format]}"
            write(target.folder / name, encode(to_pillow(image), format, quality, texts))
            saved.append({"filename": name, "subfolder": target.subfolder, "type": "output"})
        return io.NodeOutput(ui={"images": saved})


def _texts(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """What goes into the file, by name; the prompt first."""
    return {**({} if prompt is None else {"prompt": prompt}), **(extra or {})}
