"""The VAE between pictures and latents, from a file in the original (``ae``) layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .device import Placement
from .network import Network, fill
from .vae_network import Autoencoder, VaeShape
from .weights import WeightFile

DOWNSCALE = 8


@dataclass(frozen=True)
class PictureVae:
    """What the engine calls a VAE."""

    network: Network
    placement: Placement

    @torch.inference_mode()
    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] latents -> [B, 8h, 8w, 3] pictures in 0..1, one at a time (the decoder needs much memory)."""
        module: Any = self.network.module
        samples = latent.to(self.placement.device, self.placement.dtype)
        pictures = [module.decode(sample[None]).float().cpu() for sample in samples]
        return ((torch.cat(pictures) + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1)

    @torch.inference_mode()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3 or 4] in 0..1 -> [B, C, H // 8, W // 8]: the mean of the latents' distribution.

        Sides that are no multiple of 8 lose the same at both edges; a fourth (alpha) channel is left out.
        """
        pixels = _cropped(pictures[..., :3]).movedim(-1, 1) * 2.0 - 1.0
        module: Any = self.network.module
        inputs = pixels.to(self.placement.device, self.placement.dtype)
        latents = [module.encode(pixel[None]).float().cpu() for pixel in inputs]
        return torch.cat(latents)


def load(file: WeightFile, placement: Placement) -> PictureVae:
    """Build the VAE in ``file``, its dimensions read from the header. Raises ``incomplete_weights``."""
    levels, quant = file.count("encoder.down.{}."), "quant_conv.weight"
    shape = VaeShape(
        widths=[file.shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)],
        blocks=file.count("encoder.down.0.block.{}."),
        latent=file.shape("decoder.conv_in.weight")[1],
        quant=quant in file,
        post_quant=f"post_{quant}" in file,
    )
    with torch.device("meta"):
        module = Autoencoder(shape)
    # The decoder overflows in float16 and bands in bfloat16; in float32 it is a small part of a picture's time.
    placement = Placement(placement.device, torch.float32)
    tensors = ((name, tensor.to(placement.device, placement.dtype)) for name, tensor in file.tensors())
    filled: Any = fill(module, tensors, str(file.path))
    if placement.device.type == "cpu":
        filled.to(memory_format=torch.channels_last)  # A quarter faster there.
    return PictureVae(Network(filled), placement)


def _cropped(pictures: torch.Tensor) -> torch.Tensor:
    for dimension in (1, 2):
        size = pictures.shape[dimension]
        pictures = pictures.narrow(dimension, size % DOWNSCALE // 2, size - size % DOWNSCALE)
    return pictures
