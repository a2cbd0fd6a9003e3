"""The VAE between pictures and latents: FLUX.1's and Stable Diffusion's autoencoder (Rombach et al. 2022), under the
names of the published file (``ae``). The engine loads it and ``training`` trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .weights import Network, Placement, WeightFile, fill

DOWNSCALE = 8
_GROUPS = 32
_EPSILON = 1e-6


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
        latents = [module.encode(pixel[None])[0].float().cpu() for pixel in inputs]
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
    tensors = ((name, tensor.to(placement.device, placement.dtype)) for name, tensor in file.tensors(placement.device))
    filled: Any = fill(module, tensors, str(file.path))
    if placement.device.type == "cpu":
        filled.to(memory_format=torch.channels_last)  # A quarter faster there.
    return PictureVae(Network(filled), placement)


def _cropped(pictures: torch.Tensor) -> torch.Tensor:
    for dimension in (1, 2):
        size = pictures.shape[dimension]
        pictures = pictures.narrow(dimension, size % DOWNSCALE // 2, size - size % DOWNSCALE)
    return pictures


@dataclass(frozen=True)
class VaeShape:
    """The dimensions: ``widths`` of the levels from the picture inwards, ``blocks`` of each level of the encoder."""

    widths: Sequence[int]
    blocks: int
    latent: int
    quant: bool
    post_quant: bool


class Autoencoder(nn.Module):
    """Pictures [B, 3, H, W] in -1..1 and latents [B, C, H/8, W/8]."""

    def __init__(self, shape: VaeShape) -> None:
        super().__init__()
        self.encoder, self.decoder = _Encoder(shape), _Decoder(shape)
        latent = shape.latent
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if shape.quant else nn.Identity()
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if shape.post_quant else nn.Identity()

    def encode(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean and the log-variance of the latents' distribution."""
        mean, log_variance = self.quant_conv(self.encoder(picture)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """The picture of a latent."""
        picture: torch.Tensor = self.decoder(self.post_quant_conv(latent))
        return picture


class _Encoder(nn.Module):
    def __init__(self, shape: VaeShape) -> None:
        super().__init__()
        widths = [shape.widths[0], *shape.widths]
        self.conv_in = _conv(3, widths[0])
        self.down = nn.ModuleList(
            _Level(source, width, shape.blocks, "downsample" if number < len(shape.widths) else "")
            for number, (source, width) in enumerate(pairwise(widths), start=1)
        )
        self.mid = _Middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], 2 * shape.latent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        out: torch.Tensor = self.conv_out(functional.silu(self.norm_out(self.mid(x))))
        return out


class _Decoder(nn.Module):
    """Its levels are numbered from the picture, too, and run from the last to the first."""

    def __init__(self, shape: VaeShape) -> None:
        super().__init__()
        widths = [*shape.widths, shape.widths[-1]]
        self.conv_in = _conv(shape.latent, widths[-1])
        self.mid = _Middle(widths[-1])
        self.up = nn.ModuleList(
            _Level(source, width, shape.blocks + 1, "upsample" if number > 0 else "")
            for number, (width, source) in enumerate(pairwise(widths))
        )
        self.norm_out, self.conv_out = _norm(widths[0]), _conv(widths[0], 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        out: torch.Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return out


class _Level(nn.Module):
    """Blocks, then ``resample`` (``downsample``, ``upsample`` or nothing)."""

    def __init__(self, source: int, width: int, blocks: int, resample: str) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Residual(source if number == 0 else width, width) for number in range(blocks))
        if resample == "downsample":
            self.downsample = _Downsample(width)
        elif resample == "upsample":
            self.upsample = _Upsample(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for child in self.children():
            for layer in child if isinstance(child, nn.ModuleList) else (child,):
                x = layer(x)
        return x


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = _Residual(width, width), _Attention(width), _Residual(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class _Residual(nn.Module):
    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(source), _conv(source, width)
        self.norm2, self.conv2 = _norm(width), _conv(width, width)
        self.nin_shortcut = nn.Identity() if source == width else nn.Conv2d(source, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = self.conv1(functional.silu(self.norm1(x)))
        out: torch.Tensor = self.nin_shortcut(x) + self.conv2(functional.silu(self.norm2(inside)))
        return out


class _Attention(nn.Module):
    """Every place looks at every place, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = self.norm(x)
        query, key, value = (layer(inside).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = x + self.proj_out(mixed[:, 0].transpose(1, 2).reshape(x.shape))
        return out


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return out


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, width, eps=_EPSILON)


def _conv(source: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(source, width, 3, padding=1)
