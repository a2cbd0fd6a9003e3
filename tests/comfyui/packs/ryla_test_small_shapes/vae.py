"""A VAE whose encoder and decoder have other widths than 128, 256, 512 and 512."""

from __future__ import annotations

from copy import deepcopy
from typing import Any
from unittest import mock

import comfy.sd


def install() -> None:
    """Wrap ``comfy.sd.VAE``'s constructor."""
    original = comfy.sd.VAE.__init__

    def build(self: Any, sd: Any = None, *args: Any, **kwargs: Any) -> None:
        first = (sd or {}).get("encoder.conv_in.weight")
        if first is None or first.shape[0] == 128:
            return original(self, sd, *args, **kwargs)
        engine = comfy.sd.AutoencodingEngine

        def shaped(encoder_config: dict[str, Any], decoder_config: dict[str, Any], **others: Any) -> Any:
            configs = deepcopy((encoder_config, decoder_config))
            for config in configs:
                config["params"].update(ch=first.shape[0], ch_mult=_multipliers(sd))
            return engine(encoder_config=configs[0], decoder_config=configs[1], **others)

        with mock.patch.object(comfy.sd, "AutoencodingEngine", shaped):
            return original(self, sd, *args, **kwargs)

    comfy.sd.VAE.__init__ = build


def _multipliers(sd: dict[str, Any]) -> list[int]:
    widths = []
    while (level := sd.get(f"encoder.down.{len(widths)}.block.0.conv1.weight")) is not None:
        widths.append(level.shape[0])
    return [width // widths[0] for width in widths]
