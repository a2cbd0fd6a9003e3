"""Save pictures as what they are called, with the workflow in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.protocol import current_engine
from ..engines.schema import aliases, io
from ..errors import RylaError
from ..files import write_whole

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

FORMATS = {"jpeg": ".jpg", "webp": ".webp", "png": ".png"}

_EXIF_MODEL = 0x0110  # Where ComfyUI's editor looks for the prompt; the workflow is one tag below, and so on down.
_JPEG_SEGMENT = 65_533 - len(b"Exif\0\0")  # A JPEG segment holds no more.
_APP15, _RYLA = b"\xff\xef", b"RYLA\0"
_PART = 60_000  # Of a text, in each of our own segments.
_PNG_COMPRESSION = 4  # As core's SaveImage.
_FULL_COLOUR_QUALITY = 95


class SaveImage(io.ComfyNode):
    """Output node: JPEG, WebP or PNG files, listed under ``images`` for every client."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_SaveImage",
            display_name="Save Image (JPEG, WebP, PNG)",
            category="RYLA/image",
            description="Saves pictures as JPEG, WebP or PNG in the output folder, with the workflow inside if wanted.",
            **aliases("jpeg", "jpg", "webp", "png", "export"),
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
                    "dropped there: from all three formats where this pack is installed, else from webp and png. Off "
                    "also when ComfyUI runs with --disable-metadata.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="The same pictures, once they are saved: link it to what shall come after, such as Face "
                    "Similarity, so that a failure there loses nothing.",
                )
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
        return io.NodeOutput(images, ui={"images": saved})


def _texts(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """What goes into the file, by name; the prompt first."""
    return {**({} if prompt is None else {"prompt": prompt}), **(extra or {})}


def to_pillow(image: Any) -> Image.Image:
    """``image``: float tensor [H, W, C] in 0..1, C 1, 3 or 4; truncated to 8 bits exactly as core's SaveImage does."""
    import torch
    from PIL import Image

    if image.shape[-1] not in (1, 3, 4):
        message = f"A picture has {image.shape[-1]} channels; 1 (grey), 3 (RGB) and 4 (RGB and alpha) can be saved."
        raise RylaError("output_not_written", message, hint="Connect an IMAGE, not a MASK or a LATENT.")
    pixels = image.detach().to("cpu", torch.float32).mul(255.0).clamp_(0, 255).to(torch.uint8).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def encode(image: Image.Image, format_name: str, quality: int, texts: Mapping[str, Any]) -> bytes:
    """The bytes of a ``jpeg``, ``webp`` or ``png`` file, with ``texts`` as JSON where the editor reads them."""
    from .. import pictures

    buffer = BytesIO()
    if format_name == "png":
        image.save(buffer, "PNG", compress_level=_PNG_COMPRESSION, pnginfo=_png_info(texts))
    elif format_name == "webp":
        image.save(buffer, "WEBP", quality=quality, exif=_exif(texts))
    else:
        picture = pictures.flat(image)
        subsampling = "4:4:4" if quality >= _FULL_COLOUR_QUALITY else "4:2:0"
        picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling, **_jpeg_texts(texts))
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    """Put ``data`` into ``path`` in one step: a full disk leaves no half file behind."""
    try:
        write_whole(path, data)
    except OSError as error:
        raise RylaError("output_not_written", f"{path} cannot be written: {error.strerror or error}.") from error


def _png_info(texts: Mapping[str, Any]) -> PngInfo | None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, value in texts.items():
        info.add_text(name, json.dumps(value))
    return info if texts else None


def _exif(texts: Mapping[str, Any]) -> bytes:
    """One EXIF text ``name:json`` each, downwards from the camera-model tag: ComfyUI's own scheme for WebP."""
    from PIL import Image

    exif = Image.Exif()
    for index, (name, value) in enumerate(texts.items()):
        exif[_EXIF_MODEL - index] = f"{name}:{_json(value)}"
    return exif.tobytes() if texts else b""


def _jpeg_texts(texts: Mapping[str, Any]) -> dict[str, bytes]:
    """Pillow's options that put ``texts`` into a JPEG: as many of them, from the first, as EXIF's one segment holds.

    The rest goes into segments of our own, which our extension of the editor reads as well.
    """
    kept, rest = dict(texts), []
    while len(exif := _exif(kept)) > _JPEG_SEGMENT:
        name, value = kept.popitem()
        rest.append(f"{name}:{_json(value)}")
    return {"exif": exif, **({"extra": _segments("\0".join(reversed(rest)).encode())} if rest else {})}


def _segments(data: bytes) -> bytes:
    """``data`` as APP15 segments of a JPEG, each with our name."""
    parts = [_RYLA + data[start : start + _PART] for start in range(0, len(data), _PART)]
    return b"".join(_APP15 + (len(part) + 2).to_bytes(2, "big") + part for part in parts)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
