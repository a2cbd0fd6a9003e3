"""FLUX.1's transformer under the names of the published file: double-stream and single-stream blocks.

The engine paints with it and ``training`` trains it. Nothing in it waits for the host or copies from there, so that a
whole training step can be captured as a CUDA graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

PATCH = 2
HEAD_WIDTH = 128
ROPE_AXES = (16, 56, 56)
_ROPE_BASE = 10000.0
_WAVES = 256  # Width of the sinusoids of a noise level or a guidance.
_EPSILON = 1e-6


@dataclass(frozen=True)
class FluxShape:
    """The dimensions of a FLUX.1. ``hidden`` is a multiple of 128; ``context`` T5's width, ``pooled`` CLIP-L's."""

    hidden: int
    latent_channels: int
    context: int
    pooled: int
    double_blocks: int
    single_blocks: int
    guidance: bool

    @property
    def token(self) -> int:
        """The width of a picture token: a patch of the latent."""
        return self.latent_channels * PATCH**2


class Flux(nn.Module):
    """Predicts the velocity ``noise - picture`` of a rectified flow."""

    def __init__(self, shape: FluxShape) -> None:
        super().__init__()
        width = shape.hidden
        self.img_in = nn.Linear(shape.token, width)
        self.txt_in = nn.Linear(shape.context, width)
        self.time_in = _Embedder(_WAVES, width)
        self.vector_in = _Embedder(shape.pooled, width)
        self.guidance_in = _Embedder(_WAVES, width) if shape.guidance else None
        self.double_blocks = nn.ModuleList(_DoubleBlock(width) for _ in range(shape.double_blocks))
        self.single_blocks = nn.ModuleList(_SingleBlock(width) for _ in range(shape.single_blocks))
        self.final_layer = _FinalLayer(width, shape.token)

    def forward(
        self,
        latent: torch.Tensor,
        sigma: torch.Tensor,
        context: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor,
    ) -> torch.Tensor:
        """The velocity [B, C, h, w] at ``latent`` [B, C, h, w], h and w even, of the noise level ``sigma`` [B] in 0..1.

        ``context`` is [B, T, D], ``pooled`` [B, D'], ``guidance`` [B] as users give it, read only where the network has
        an input for it.
        """
        rows, columns = (side // PATCH for side in latent.shape[-2:])
        picture, text = self.img_in(to_tokens(latent)), self.txt_in(context)
        vector = self.vector_in(pooled) + self.time_in(_waves(sigma).to(pooled.dtype))
        if self.guidance_in is not None:
            vector = vector + self.guidance_in(_waves(guidance).to(pooled.dtype))
        rope = rotations(text.shape[1], rows, columns, latent.device)
        for block in self.double_blocks:
            picture, text = block(picture, text, vector, rope)
        both = torch.cat((text, picture), dim=1)
        for block in self.single_blocks:
            both = block(both, vector, rope)
        return to_latent(self.final_layer(both[:, text.shape[1] :], vector), rows, columns)


def to_tokens(latent: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> [B, h/2 * w/2, C * 4], channels outermost within a token."""
    batch, channels, height, width = latent.shape
    patches = latent.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def to_latent(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse of ``to_tokens`` for a grid of ``rows`` and ``columns``."""
    patches = tokens.reshape(tokens.shape[0], rows, columns, -1, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def rotations(text: int, rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Cosines and sines [text + rows * columns, 64, 2] of each token's place: 0 for text, else (0, row, column).

    Source: Su et al. 2021 (RoFormer), over three axes.
    """
    made_on = torch.device("cpu") if device.type == "mps" else device  # Metal has no float64.
    places = torch.zeros(text + rows * columns, len(ROPE_AXES), dtype=torch.float64, device=made_on)
    grid = places[text:].view(rows, columns, len(ROPE_AXES))
    grid[..., 1] = torch.arange(rows, dtype=torch.float64, device=made_on)[:, None]
    grid[..., 2] = torch.arange(columns, dtype=torch.float64, device=made_on)
    angles = [
        places[:, axis, None] * _ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64, device=made_on) / width)
        for axis, width in enumerate(ROPE_AXES)
    ]
    angle = torch.cat(angles, dim=1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float().to(device)


def _waves(value: torch.Tensor) -> torch.Tensor:
    """Cosines, then sines [B, 256] of 1000 times ``value`` [B]; in float32, as rounding would move them by radians."""
    half = _WAVES // 2
    frequencies = torch.exp(torch.arange(half, device=value.device) * (-math.log(10000.0) / half))
    angles = 1000.0 * value.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class _Embedder(nn.Module):
    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(source, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out_layer(functional.silu(self.in_layer(x)))
        return out


class _Modulation(nn.Module):
    """``count`` vectors [B, 1, width] from the one vector: shifts, scales, gates."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.lin = nn.Linear(width, count * width)

    def forward(self, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.lin(functional.silu(vector))[:, None].chunk(self.count, dim=-1))


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=_EPSILON) * (1 + scale) + shift


class _HeadNorm(nn.Module):
    """Root-mean-square norm over a head."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEAD_WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (HEAD_WIDTH,), self.scale.to(x.dtype), _EPSILON)


class _QueryKeyNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.key_norm = _HeadNorm(), _HeadNorm()

    def forward(self, qkv: torch.Tensor) -> Heads:
        """Query, key and value, each [B, heads, N, 128], of [B, N, 3 * width]; the first two are normed."""
        query, key, value = qkv.reshape(*qkv.shape[:2], 3, -1, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        return self.query_norm(query), self.key_norm(key), value


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    mixed = functional.scaled_dot_product_attention(_rotated(query, rope), _rotated(key, rope), value)
    return mixed.transpose(1, 2).flatten(2)


def _rotated(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Turn each pair of neighbours in [B, heads, N, 128] by its angle."""
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cosine, sine = rope.unbind(-1)
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2).to(x.dtype)


class _Attention(nn.Module):
    """What one stream brings into the attention and takes from it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = _QueryKeyNorm()
        self.proj = nn.Linear(width, width)

    def heads(self, x: torch.Tensor) -> Heads:
        heads: Heads = self.norm(self.qkv(x))
        return heads


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))


class _DoubleBlock(nn.Module):
    """Picture and text with weights of their own, in one attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.img_mod, self.txt_mod = _Modulation(width, 6), _Modulation(width, 6)
        self.img_attn, self.txt_attn = _Attention(width), _Attention(width)
        self.img_mlp, self.txt_mlp = _mlp(width), _mlp(width)

    def forward(
        self, picture: torch.Tensor, text: torch.Tensor, vector: torch.Tensor, rope: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shift, scale, gate, *picture_rest = self.img_mod(vector)
        text_shift, text_scale, text_gate, *text_rest = self.txt_mod(vector)
        of_picture = self.img_attn.heads(modulated(picture, shift, scale))
        of_text = self.txt_attn.heads(modulated(text, text_shift, text_scale))
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(of_text, of_picture, strict=True))
        mixed = attend(query, key, value, rope)
        picture = picture + gate * self.img_attn.proj(mixed[:, text.shape[1] :])
        text = text + text_gate * self.txt_attn.proj(mixed[:, : text.shape[1]])
        return _fed(picture, self.img_mlp, *picture_rest), _fed(text, self.txt_mlp, *text_rest)


def _fed(x: torch.Tensor, layer: nn.Module, *how: torch.Tensor) -> torch.Tensor:
    shift, scale, gate = how
    out: torch.Tensor = x + gate * layer(modulated(x, shift, scale))
    return out


class _SingleBlock(nn.Module):
    """Both together; attention and feed-forward side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = [3 * width, 4 * width]
        self.modulation = _Modulation(width, 3)
        self.linear1, self.linear2 = nn.Linear(width, 7 * width), nn.Linear(5 * width, width)
        self.norm, self.mlp_act = _QueryKeyNorm(), nn.GELU(approximate="tanh")

    def forward(self, x: torch.Tensor, vector: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(vector)
        qkv, inside = self.linear1(modulated(x, shift, scale)).split(self.widths, dim=-1)
        query, key, value = self.norm(qkv)
        mixed = attend(query, key, value, rope)
        out: torch.Tensor = x + gate * self.linear2(torch.cat((mixed, self.mlp_act(inside)), dim=-1))
        return out


class _FinalLayer(nn.Module):
    def __init__(self, width: int, token: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, token)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        shift, scale = self.adaLN_modulation(vector)[:, None].chunk(2, dim=-1)
        out: torch.Tensor = self.linear(modulated(x, shift, scale))
        return out
