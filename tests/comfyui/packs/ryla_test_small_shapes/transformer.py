"""A Flux of any width on the ComfyUIs that fix it; later ones read it off the file themselves."""

from __future__ import annotations

from typing import Any

import comfy.model_detection
from comfyui_version import __version__

READS_THEM_ITSELF = (0, 33)


def install() -> None:
    """Wrap ``comfy.model_detection.detect_unet_config``, where ComfyUI needs it."""
    if tuple(int(part) for part in __version__.split(".")[:2]) >= READS_THEM_ITSELF:
        return
    original = comfy.model_detection.detect_unet_config

    def detect(state_dict: dict[str, Any], key_prefix: str, *args: Any, **kwargs: Any) -> Any:
        config = original(state_dict, key_prefix, *args, **kwargs)
        weight = state_dict.get(f"{key_prefix}txt_in.weight")
        if config and config.get("image_model") == "flux" and weight is not None:
            width, context = weight.shape
            heads = width // sum(config["axes_dim"])
            config |= {"hidden_size": width, "num_heads": heads, "context_in_dim": context}
        return config

    comfy.model_detection.detect_unet_config = detect
