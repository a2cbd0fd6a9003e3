"""A narrow FLUX.1 autoencoder for training: 16 latent channels, 8x smaller, ``ae.safetensors``' parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT = 16
SCALE, SHIFT = 0.3611, 0.1159
"""FLUX.1's latent format: the transformer sees ``(z - SHIFT) * SCALE``."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class _ResBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = _norm(out), nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))
        return out


class _AttnBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.proj_out(h)
        return out


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            _ResBlock(channels, channels),
            _AttnBlock(channels),
            _ResBlock(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class _Resample(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=0 if stride == 2 else 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1)) if self.stride == 2 else F.interpolate(x, scale_factor=2.0, mode="nearest")
        out: Tensor = self.conv(x)
        return out


class _Level(nn.Module):
    def __init__(self, channels: int, out: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(_ResBlock(channels if i == 0 else out, out) for i in range(blocks))


class Encoder(nn.Module):
    """RGB (B, 3, H, W) in [-1, 1] -> mean and log-variance (B, 32, H/8, W/8)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        channels = [widths[0], *widths]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Level(a, b, 2) for a, b in pairwise(channels))
        for level, out in zip(list(self.down)[:-1], channels[1:], strict=False):
            level.downsample = _Resample(out, 2)
        self.mid = _Middle(channels[-1])
        self.norm_out, self.conv_out = _norm(channels[-1]), nn.Conv2d(channels[-1], 2 * LATENT, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                h = block(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    """Latent (B, 16, h, w) -> RGB (B, 3, 8h, 8w) in about [-1, 1]."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        channels = list(widths)
        self.conv_in = nn.Conv2d(LATENT, channels[-1], 3, padding=1)
        self.mid = _Middle(channels[-1])
        self.up = nn.ModuleList(_Level(b, a, 3) for a, b in zip(channels, [*channels[1:], channels[-1]], strict=True))
        for level, out in zip(list(self.up)[1:], channels[1:], strict=True):
            level.upsample = _Resample(out, 1)
        self.norm_out, self.conv_out = _norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block:
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class Autoencoder(nn.Module):
    """Encoder and decoder under the published names; ``widths`` are the channels of the levels, finest first.

    Each is at least twice the 32 groups of the norms: a group of one channel forgets how bright a flat picture is.
    """

    def __init__(self, widths: Sequence[int] = (64, 64, 128, 128)) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(widths), Decoder(widths)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, 16, h, w) of the latent of RGB ``x`` in [-1, 1]."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    @torch.no_grad()
    def fold_latent_format(self, mean: float, std: float) -> None:
        """Rescale latents to FLUX.1's mean SHIFT and deviation 1 / SCALE, in the layers at both ends."""
        gain = 1 / (SCALE * std)
        out, entry = self.encoder.conv_out, self.decoder.conv_in
        out.weight[:LATENT] *= gain
        out.bias[:LATENT] = (out.bias[:LATENT] - mean) * gain + SHIFT
        entry.bias += entry.weight.sum(dim=(1, 2, 3)) * (mean - SHIFT / gain)
        entry.weight /= gain
