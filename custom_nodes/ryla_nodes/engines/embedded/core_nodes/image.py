"""ComfyUI's EmptyImage, ImageInvert and ImageScale."""

from __future__ import annotations

from typing import Any

from ...schema import io
from ..files import require_size

MAX_RESOLUTION = 16384
UPSCALE_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
CROP_METHODS = ("disabled", "center")


class EmptyImage(io.ComfyNode):
    """A picture of one colour."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmptyImage",
            display_name="Empty Image",
            category="image",
            inputs=[
                io.Int.Input("width", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("height", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("batch_size", default=1, min=1, max=4096),
                io.Int.Input("color", default=0, min=0, max=0xFFFFFF, step=1),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1, color: int = 0) -> io.NodeOutput:
        import torch

        require_size(width, height, batch_size, name="The picture")
        channels = [(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)]
        return io.NodeOutput(torch.tensor(channels).expand(batch_size, height, width, 3).contiguous())


class ImageInvert(io.ComfyNode):
    """The negative of a picture."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageInvert",
            display_name="Invert Image Colors",
            category="image/color",
            inputs=[io.Image.Input("image")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Any) -> io.NodeOutput:
        return io.NodeOutput(1.0 - image)


class ImageScale(io.ComfyNode):
    """A picture at another size; a width or height of 0 keeps the proportions."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageScale",
            display_name="Upscale Image",
            category="image/upscaling",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("upscale_method", options=UPSCALE_METHODS),
                io.Int.Input("width", default=512, min=0, max=MAX_RESOLUTION, step=1),
                io.Int.Input("height", default=512, min=0, max=MAX_RESOLUTION, step=1),
                io.Combo.Input("crop", options=CROP_METHODS),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Any, upscale_method: str, width: int, height: int, crop: str) -> io.NodeOutput:
        old_height, old_width = image.shape[1:3]
        if width == 0 and height == 0:
            return io.NodeOutput(image)
        width = width or max(1, round(old_width * height / old_height))
        height = height or max(1, round(old_height * width / old_width))
        require_size(width, height, image.shape[0], name="The picture")
        if crop == "center":
            image = _cropped(image, width / height)
        return io.NodeOutput(_scaled(image, width, height, upscale_method))


def _cropped(image: Any, aspect: float) -> Any:
    """The middle of ``image`` [B, H, W, C] with the given width / height."""
    height, width = image.shape[1:3]
    left = top = 0
    if width / height > aspect:
        left = round((width - height * aspect) / 2)
    elif width / height < aspect:
        top = round((height - width / aspect) / 2)
    return image[:, top : height - top, left : width - left]


def _scaled(image: Any, width: int, height: int, method: str) -> Any:
    """``image`` [B, H, W, C] at another size; Lanczos works on 8 bits, as in ComfyUI."""
    import numpy as np
    import torch
    from PIL import Image

    if method != "lanczos":
        scaled = torch.nn.functional.interpolate(image.movedim(-1, 1), size=(height, width), mode=method)
        return scaled.movedim(1, -1)
    pixels = (255.0 * image.cpu().numpy()).clip(0, 255).astype(np.uint8)
    pictures = [Image.fromarray(each).resize((width, height), Image.Resampling.LANCZOS) for each in pixels]
    return torch.from_numpy(np.stack([np.asarray(each, np.float32) / 255.0 for each in pictures])).to(image)
