"""ComfyUI's LoadImage, LoadImageMask, SaveImage and PreviewImage."""

from __future__ import annotations

import contextlib
import json
import mimetypes
import secrets
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....files import sha256
from ....workflows.graph import reachable
from ...schema import io
from ..engine import embedded_engine
from ..execution.calls import running_node
from ..files import MAX_FRAMES, MAX_PIXELS, opened_picture, too_large

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

MAX_METADATA_BYTES = 64 << 20
"""In all pictures that the nodes of one graph save."""
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
        prefix = _job_memo().setdefault("preview", f"ComfyUI_temp_{secrets.token_hex(4)}")
        return io.NodeOutput(images, ui={"images": _save(images, prefix, "temp", 1, cls.hidden)})


def _picture_input() -> io.Input:
    folder = embedded_engine().files.input
    names = (path.name for path in folder.iterdir() if path.is_file())
    shown = sorted(name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("image/"))
    return io.Combo.Input("image", options=shown, upload=io.UploadType.image)


def _exists(name: str) -> bool | str:
    return True if embedded_engine().files.resolve(name).is_file() else f"Invalid image file: {name}"


def _fingerprint(name: str) -> str:
    path = embedded_engine().files.resolve(name)
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1024)
def _digest(path: Path, mtime: int, size: int) -> str:
    """The SHA-256 of a file in this state: a graph may name the same picture ten thousand times."""
    return sha256(path)


def _load(name: str) -> tuple[Any, Any]:
    """A picture file as IMAGE [frames, H, W, 3] and MASK [frames, H, W] (1 - alpha; 64x64 zeros without alpha).

    It is turned as its EXIF data says; frames of another size than the first are left out.

    Raises:
        RylaError: what ``opened_picture`` raises.
    """
    import torch

    with opened_picture(embedded_engine().files.resolve(name), name) as file:
        images, alphas = _decoded(file, name)
    alpha = torch.from_numpy(alphas).float().div_(255.0)
    return torch.from_numpy(images).float().div_(255.0), 1.0 - alpha


def _decoded(file: Image.Image, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The frames of a picture: [frames, H, W, 3], and their alpha [frames, H, W]."""
    import numpy as np
    from PIL import ImageOps, ImageSequence

    images: list[NDArray[np.uint8]] = []
    alphas: list[NDArray[np.uint8]] = []
    pixels = 0
    for count, frame in enumerate([file] if file.format == "MPO" else ImageSequence.Iterator(file), 1):
        pixels += frame.width * frame.height
        if pixels > MAX_PIXELS or count > MAX_FRAMES:
            raise too_large(name, f"has too many frames of {frame.width} x {frame.height} pixels")
        upright = ImageOps.exif_transpose(frame)
        if upright.mode == "I":
            upright = upright.point(lambda level: level * (1 / 255))
        image = np.array(upright.convert("RGB"))
        if not images or images[0].shape == image.shape:
            images.append(image)
            alphas.append(_alpha(upright))
    # One frame is not copied: it can be large.
    return (images[0][None], alphas[0][None]) if len(images) == 1 else (np.stack(images), np.stack(alphas))


def _alpha(picture: Image.Image) -> NDArray[np.uint8]:
    import numpy as np

    palette = picture.mode == "P" and "transparency" in picture.info
    if "A" not in picture.getbands() and not palette:
        return np.full((64, 64), 255, np.uint8)
    return np.array(picture.convert("RGBA").getchannel("A"))


def _save(images: Any, prefix: str, kind: str, compress_level: int, hidden: io.HiddenHolder) -> list[dict[str, str]]:
    """Write each picture of ``images`` [B, H, W, C] and return what names them in the history."""
    import numpy as np
    from PIL import Image

    metadata = _metadata(hidden)
    counters = _job_memo().setdefault("counters", {})
    target = embedded_engine().files.save_target(prefix, images.shape[2], images.shape[1], kind, counters)
    saved = []
    counter = target.counter
    for index, image in enumerate(images):
        pixels = (255.0 * image.cpu().numpy()).clip(0, 255).astype(np.uint8)
        stem = f"{target.name.replace('%batch_num%', str(index))}_"
        path, counter = _claim(target.folder, stem, counter)
        try:
            Image.fromarray(pixels).save(path, "PNG", pnginfo=metadata, compress_level=compress_level)
        except BaseException:
            path.unlink()
            raise
        saved.append({"filename": path.name, "subfolder": target.subfolder, "type": kind})
    counters[target.folder / target.name] = counter
    return saved


def _metadata(hidden: io.HiddenHolder) -> PngInfo:
    """The graph and what the client sent with it, as JSON."""
    from PIL.PngImagePlugin import PngInfo

    metadata = PngInfo()
    for key, text in _texts(hidden).items():
        metadata.add_text(key, text)
    return metadata


def _texts(hidden: io.HiddenHolder) -> dict[str, str]:
    """What a picture holds; of a large graph with many pictures each holds the nodes that it needs, and no more.

    Else they would hold more than ``MAX_METADATA_BYTES`` together.
    """
    graph, memo = hidden.prompt, _job_memo()
    if "texts" not in memo:
        values = {"prompt": graph, **(hidden.extra_pnginfo or {})}
        memo["texts"] = {key: json.dumps(value) for key, value in values.items() if value is not None}
        saving = (SaveImage.__name__, PreviewImage.__name__)
        count = sum(node["class_type"] in saving for node in (graph or {}).values())
        memo["fits"] = sum(map(len, memo["texts"].values())) * count <= MAX_METADATA_BYTES
    texts: dict[str, str] = memo["texts"]
    node = running_node()
    if node is None or memo["fits"]:
        return texts
    return {"prompt": json.dumps({key: graph[key] for key in sorted(reachable(graph, [node.node_id]))})}


def _job_memo() -> dict[str, Any]:
    node = running_node()
    return {} if node is None else node.memo


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
