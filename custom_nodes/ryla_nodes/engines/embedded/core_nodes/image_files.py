"""ComfyUI's LoadImage, LoadImageMask, SaveImage and PreviewImage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mimetypes
import secrets
from pathlib import Path
from typing import Any

from ...schema import io
from ..engine import embedded_engine

CHANNELS = ("alpha", "red", "green", "blue")


class LoadImage(io.ComfyNode):
    """A picture of the input folder, and the inverse of its alpha channel."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadImage",
            display_name="Load Image",
            category="image",
            inputs=[_picture_input()],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        return _exists(image)

    @classmethod
    def fingerprint_inputs(cls, image: str) -> str:
        return _fingerprint(image)

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        return io.NodeOutput(*_load(image))


class LoadImageMask(io.ComfyNode):
    """One channel of a picture of the input folder; of alpha the inverse."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadImageMask",
            display_name="Load Image (as Mask)",
            category="image",
            inputs=[_picture_input(), io.Combo.Input("channel", options=CHANNELS)],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        return _exists(image)

    @classmethod
    def fingerprint_inputs(cls, image: str, channel: str) -> str:
        return _fingerprint(image)

    @classmethod
    def execute(cls, image: str, channel: str) -> io.NodeOutput:
        picture, mask = _load(image)
        return io.NodeOutput(mask if channel == "alpha" else picture[..., CHANNELS.index(channel) - 1])


class SaveImage(io.ComfyNode):
    """Pictures to PNG files in the output folder, with the graph in them."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveImage",
            display_name="Save Image",
            category="image",
            description="Saves the input images to your ComfyUI output directory.",
            inputs=[
                io.Image.Input("images", tooltip="The images to save."),
                io.String.Input(
                    "filename_prefix",
                    default="ComfyUI",
                    tooltip="The file name, with folders in front if wanted; %width%, %year% and so on are filled in.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any, filename_prefix: str = "ComfyUI") -> io.NodeOutput:
        return io.NodeOutput(images, ui={"images": _save(images, filename_prefix, "output", 4, cls.hidden)})


class PreviewImage(io.ComfyNode):
    """Pictures to PNG files in the temp folder."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            description="Preview the images without saving them to the ComfyUI output directory.",
            inputs=[io.Image.Input("images")],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any) -> io.NodeOutput:
        prefix = f"ComfyUI_temp_{secrets.token_hex(4)}"
        return io.NodeOutput(images, ui={"images": _save(images, prefix, "temp", 1, cls.hidden)})


def _picture_input() -> io.Input:
    folder = embedded_engine().files.input
    names = (path.name for path in folder.iterdir() if path.is_file())
    pictures = sorted(name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("image/"))
    return io.Combo.Input("image", options=pictures, upload=io.UploadType.image)


def _exists(name: str) -> bool | str:
    return True if embedded_engine().files.resolve(name).is_file() else f"Invalid image file: {name}"


def _fingerprint(name: str) -> str:
    return hashlib.sha256(embedded_engine().files.resolve(name).read_bytes()).hexdigest()


def _load(name: str) -> tuple[Any, Any]:
    """A picture file as IMAGE [frames, H, W, 3] and MASK [frames, H, W] (1 - alpha; 64x64 zeros without alpha).

    It is turned as its EXIF data says; frames of another size than the first are left out.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps, ImageSequence

    images: list[Any] = []
    masks: list[Any] = []
    with Image.open(embedded_engine().files.resolve(name)) as file:
        for frame in [file] if file.format == "MPO" else ImageSequence.Iterator(file):
            upright = ImageOps.exif_transpose(frame)
            if upright.mode == "I":
                upright = upright.point(lambda level: level * (1 / 255))
            pixels = np.asarray(upright.convert("RGB"), np.float32) / 255.0
            if images and images[0].shape != pixels.shape:
                continue
            images.append(pixels)
            masks.append(_mask(upright))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def _mask(picture: Any) -> Any:
    import numpy as np

    palette = picture.mode == "P" and "transparency" in picture.info
    if "A" not in picture.getbands() and not palette:
        return np.zeros((64, 64), np.float32)
    return 1.0 - np.asarray(picture.convert("RGBA").getchannel("A"), np.float32) / 255.0


def _save(images: Any, prefix: str, kind: str, compress_level: int, hidden: io.HiddenHolder) -> list[dict[str, str]]:
    """Write each picture of ``images`` [B, H, W, C] and return what names them in the history."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    metadata = PngInfo()
    for key, value in {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}.items():
        if value is not None:
            metadata.add_text(key, json.dumps(value))
    target = embedded_engine().files.save_target(prefix, images.shape[2], images.shape[1], kind)
    saved = []
    counter = target.counter
    for index, image in enumerate(images):
        pixels = (255.0 * image.cpu().numpy()).clip(0, 255).astype(np.uint8)
        stem = f"{target.name.replace('%batch_num%', str(index))}_"
        path, counter = _claim(target.folder, stem, counter)
        try:
            Image.fromarray(pixels).save(path, "PNG", pnginfo=metadata, compress_level=compress_level)
        except OSError:
            path.unlink()
            raise
        saved.append({"filename": path.name, "subfolder": target.subfolder, "type": kind})
    return saved


def _claim(folder: Path, stem: str, counter: int) -> tuple[Path, int]:
    """Make the first free ``<stem>NNNNN_.png`` from ``counter`` on, and the number after it.

    Another process that saves to the same folder cannot get the same name.
    """
    while True:
        path = folder / f"{stem}{counter:05}_.png"
        counter += 1
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path, counter


NODES: tuple[type[io.ComfyNode], ...] = (LoadImage, LoadImageMask, SaveImage, PreviewImage)
