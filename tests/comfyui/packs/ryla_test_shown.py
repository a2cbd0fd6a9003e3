"""A node that takes a second and a half, and shows a small picture while it does."""

from __future__ import annotations

import time

import comfy.utils
from PIL import Image

STEPS = 6


class Shown:
    """Passes an image on."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "show", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, object]:
        return {"required": {"image": ("IMAGE",)}}

    @classmethod
    def IS_CHANGED(cls, image: object) -> float:
        return time.time()

    def show(self, image: object) -> tuple[object]:
        bar = comfy.utils.ProgressBar(STEPS)
        for step in range(STEPS):
            time.sleep(0.25)
            bar.update_absolute(step + 1, STEPS, ("JPEG", Image.new("RGB", (48, 32), (0, 40 * step, 200)), 48))
        return (image,)


NODE_CLASS_MAPPINGS = {"RylaTestShown": Shown}
