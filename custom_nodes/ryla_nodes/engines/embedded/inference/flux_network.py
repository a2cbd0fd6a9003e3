"""FLUX.1's transformer: double-stream and single-stream blocks over text and picture tokens.

Its parts have diffusers' names, into which ``loras.flux_modules`` translates the files' and which LoRAs use, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

HEAD_WIDTH = 128
ROPE_AXES = (16, 56, 56)
_ROPE_BASE = 10000.0
_WAVES = 256  # Width of the sinusoids of a noise level or a guidance.
_EPSILON = 1e-6


@dataclass(frozen=True)
class FluxShape:
    """The dimensions of a Flux."""

    hidden: int
    latent_channels: int
    context: int
    pooled: int
    double_blocks: int
    single_blocks: int
    guidance: bool
    patch: int = 2

    @property
    def token(self) -> int:
        """The width of a picture token: a patch of the latent."""
        return self.latent_channels * self.patch**2


class FluxNetwork(nn.Module):
    """Predicts the velocity of every picture token."""

    def __init__(self, shape: FluxShape) -> None:
        super().__init__()
        width = shape.hidden
        self.x_embedder = nn.Linear(shape.token, width)
        self.context_embedder = nn.Linear(shape.context, width)
        self.time_text_embed = _VectorEmbedder(shape)
        self.transformer_blocks = nn.ModuleList(_DoubleBlock(width) for _ in range(shape.double_blocks))
        self.single_transformer_blocks = nn.ModuleList(_SingleBlock(width) for _ in range(shape.single_blocks))
        self.norm_out = _Modulation(width, 2)
        self.proj_out = nn.Linear(width, shape.token)

    def forward(
        self,
        tokens: torch.Tensor,
        context: torch.Tensor,
        pooled: torch.Tensor,
        sigma: torch.Tensor,
        guidance: torch.Tensor,
        grid: tuple[int, int],
    ) -> torch.Tensor:
        """From ``tokens`` [B, N, 4C], rows of a ``grid`` (rows, columns), ``context`` [B, T, D] and scalars [B]."""
        vector = self.time_text_embed(sigma, guidance, pooled)
        picture, text = self.x_embedder(tokens), self.context_embedder(context)
        rope = rotations(text.shape[1], *grid).to(tokens.device)
        for block in self.transformer_blocks:
            picture, text = block(picture, text, vector, rope)
        both = torch.cat((text, picture), dim=1)
        for block in self.single_transformer_blocks:
            both = block(both, vector, rope)
        scale, shift = self.norm_out(vector)
        out: torch.Tensor = self.proj_out(_modulated(both[:, text.shape[1] :], shift, scale))
        return out


def rotations(text: int, rows: int, columns: int) -> torch.Tensor:
    """Cosines and sines [text + rows * columns, 64, 2] of each token's place: 0 for text, else (0, row, column).

    Source: Su et al. 2021 (RoFormer), over three axes.
    """
    places = torch.zeros(text + rows * columns, len(ROPE_AXES), dtype=torch.float64)
    places[text:, 1] = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    places[text:, 2] = torch.arange(columns, dtype=torch.float64).repeat(rows)
    angles = [
        places[:, axis, None] * _ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        for axis, width in enumerate(ROPE_AXES)
    ]
    angle = torch.cat(angles, dim=1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()


class _VectorEmbedder(nn.Module):
    """One vector from the noise level, the guidance (where the network has it) and CLIP's pooled state."""

    def __init__(self, shape: FluxShape) -> None:
        super().__init__()
        self.timestep_embedder = _Embedder(_WAVES, shape.hidden)
        if shape.guidance:
            self.guidance_embedder = _Embedder(_WAVES, shape.hidden)
        self.text_embedder = _Embedder(shape.pooled, shape.hidden)

    def forward(self, sigma: torch.Tensor, guidance: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        vector: torch.Tensor = self.text_embedder(pooled) + self.timestep_embedder(_waves(sigma).to(pooled.dtype))
        if hasattr(self, "guidance_embedder"):
            vector = vector + self.guidance_embedder(_waves(guidance).to(pooled.dtype))
        return vector


def _waves(value: torch.Tensor) -> torch.Tensor:
    """Cosines, then sines [B, 256] of 1000 times ``value`` [B]; in float32, as rounding would move them by radians."""
    half = _WAVES // 2
    frequencies = torch.exp(torch.arange(half, device=value.device) * (-math.log(10000.0) / half))
    angles = 1000.0 * value.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class _Embedder(nn.Module):
    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(source, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear_2(functional.silu(self.linear_1(x)))
        return out


class _Modulation(nn.Module):
    """``count`` vectors [B, 1, width] from the one vector: shifts, scales, gates."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)

    def forward(self, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.linear(functional.silu(vector))[:, None].chunk(self.count, dim=-1))


def _modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=_EPSILON) * (1 + scale) + shift


class _Project(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.proj(x), approximate="tanh")


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_Project(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


class _Attention(nn.Module):
    """Queries, keys and values of one stream; the second one's, with ``added``, have names of their own."""

    def __init__(self, width: int, *, added: bool) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = (nn.RMSNorm(HEAD_WIDTH, _EPSILON) for _ in range(2))
        if added:
            self.to_out = nn.ModuleList([nn.Linear(width, width)])
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(width, width) for _ in range(3))
            self.norm_added_q, self.norm_added_k = (nn.RMSNorm(HEAD_WIDTH, _EPSILON) for _ in range(2))
            self.to_add_out = nn.Linear(width, width)

    def heads(self, x: torch.Tensor) -> Heads:
        """Query, key and value, each [B, heads, N, 128]."""
        return self.norm_q(_split(self.to_q(x))), self.norm_k(_split(self.to_k(x))), _split(self.to_v(x))

    def added_heads(self, x: torch.Tensor) -> Heads:
        """The same of the second stream."""
        query, key = _split(self.add_q_proj(x)), _split(self.add_k_proj(x))
        return self.norm_added_q(query), self.norm_added_k(key), _split(self.add_v_proj(x))


def _split(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(*x.shape[:-1], -1, HEAD_WIDTH).transpose(1, 2)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    mixed = functional.scaled_dot_product_attention(_rotated(query, rope), _rotated(key, rope), value)
    return mixed.transpose(1, 2).flatten(2)


def _rotated(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Turn each pair of neighbours in [B, heads, N, 128] by its angle."""
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cosine, sine = rope.unbind(-1)
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2).to(x.dtype)


class _DoubleBlock(nn.Module):
    """Picture and text with weights of their own, in one attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm1_context = _Modulation(width, 6), _Modulation(width, 6)
        self.attn = _Attention(width, added=True)
        self.ff, self.ff_context = _FeedForward(width), _FeedForward(width)

    def forward(
        self, picture: torch.Tensor, text: torch.Tensor, vector: torch.Tensor, rope: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shift, scale, gate, *picture_rest = self.norm1(vector)
        text_shift, text_scale, text_gate, *text_rest = self.norm1_context(vector)
        of_picture = self.attn.heads(_modulated(picture, shift, scale))
        of_text = self.attn.added_heads(_modulated(text, text_shift, text_scale))
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(of_text, of_picture, strict=True))
        mixed = _attend(query, key, value, rope)
        picture = picture + gate * self.attn.to_out[0](mixed[:, text.shape[1] :])
        text = text + text_gate * self.attn.to_add_out(mixed[:, : text.shape[1]])
        return _fed(picture, self.ff, *picture_rest), _fed(text, self.ff_context, *text_rest)


def _fed(x: torch.Tensor, layer: nn.Module, *how: torch.Tensor) -> torch.Tensor:
    shift, scale, gate = how
    out: torch.Tensor = x + gate * layer(_modulated(x, shift, scale))
    return out


class _SingleBlock(nn.Module):
    """Both together; attention and feed-forward side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _Modulation(width, 3)
        self.attn = _Attention(width, added=False)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.proj_out = nn.Linear(5 * width, width)

    def forward(self, x: torch.Tensor, vector: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.norm(vector)
        inside = _modulated(x, shift, scale)
        mixed = _attend(*self.attn.heads(inside), rope)
        fed = functional.gelu(self.proj_mlp(inside), approximate="tanh")
        out: torch.Tensor = x + gate * self.proj_out(torch.cat((mixed, fed), dim=-1))
        return out
