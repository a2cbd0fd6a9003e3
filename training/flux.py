"""A small FLUX.1 transformer for training, with the parameter names of the published file, so that saving is enough.

Architecture: the FLUX.1 reference model (double-stream and single-stream blocks, rotary positions over axes 16/56/56,
RMS-normed queries and keys, adaptive layer norm from time, guidance and the pooled text vector).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AXES = (16, 56, 56)
HEAD = sum(AXES)


@dataclass(frozen=True)
class FluxConfig:
    """Sizes: ``hidden`` is a multiple of 128 (the head), ``context`` the T5 width, ``pooled`` the CLIP-L width."""

    hidden: int = 256
    depth: int = 3
    depth_single: int = 6
    context: int = 256
    pooled: int = 128
    channels: int = 64


def timestep_embedding(value: Tensor, width: int = 256) -> Tensor:
    """Sinusoids (B, width) of ``1000 * value`` (B,), cosines first."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angles = 1000.0 * value.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary(ids: Tensor) -> Tensor:
    """Rotations (N, 64, 2) as (cos, sin) of positions ``ids`` (N, 3)."""
    parts = []
    for axis, width in enumerate(AXES):
        omega = 1.0 / 10000 ** (torch.arange(0, width, 2, device=ids.device, dtype=torch.float64) / width)
        parts.append(ids[:, axis, None].double() * omega)
    angles = torch.cat(parts, dim=-1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def _rotate(x: Tensor, rope: Tensor) -> Tensor:
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope.unbind(-1)
    return torch.stack([cos * even - sin * odd, sin * even + cos * odd], dim=-1).flatten(-2).to(x.dtype)


class _Embedder(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(width, hidden)
        self.out_layer = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out_layer(F.silu(self.in_layer(x)))
        return out


class _Scale(nn.Module):
    """Root-mean-square norm over the head."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEAD))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * self.scale.float()).to(x.dtype)


class _QKNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm = _Scale()
        self.key_norm = _Scale()


class _Attention(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(hidden, hidden * 3)
        self.norm = _QKNorm()
        self.proj = nn.Linear(hidden, hidden)


class _Modulation(nn.Module):
    def __init__(self, hidden: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.lin = nn.Linear(hidden, hidden * count)

    def forward(self, vector: Tensor) -> tuple[Tensor, ...]:
        return self.lin(F.silu(vector))[:, None].chunk(self.count, dim=-1)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _heads(qkv: Tensor, norm: _QKNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Fused (B, N, 3*hidden) to normed q, k and v of (B, heads, N, 128)."""
    q, k, v = qkv.unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
    return norm.query_norm(q), norm.key_norm(k), v


def _attend(q: Tensor, k: Tensor, v: Tensor, rope: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(_rotate(q, rope), _rotate(k, rope), v)
    return out.transpose(1, 2).flatten(2)


def _mlp(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, hidden * 4), nn.GELU(approximate="tanh"), nn.Linear(hidden * 4, hidden))


class _DoubleBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.img_mod, self.txt_mod = _Modulation(hidden, 6), _Modulation(hidden, 6)
        self.img_attn, self.txt_attn = _Attention(hidden), _Attention(hidden)
        self.img_mlp, self.txt_mlp = _mlp(hidden), _mlp(hidden)

    def forward(self, img: Tensor, txt: Tensor, vector: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        shift_i, scale_i, gate_i, shift_i2, scale_i2, gate_i2 = self.img_mod(vector)
        shift_t, scale_t, gate_t, shift_t2, scale_t2, gate_t2 = self.txt_mod(vector)
        image = _heads(self.img_attn.qkv((1 + scale_i) * _norm(img) + shift_i), self.img_attn.norm)
        text = _heads(self.txt_attn.qkv((1 + scale_t) * _norm(txt) + shift_t), self.txt_attn.norm)
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(text, image, strict=True))
        attended = _attend(q, k, v, rope)
        attended_txt, attended_img = attended.split([txt.shape[1], img.shape[1]], dim=1)
        img = img + gate_i * self.img_attn.proj(attended_img)
        img = img + gate_i2 * self.img_mlp((1 + scale_i2) * _norm(img) + shift_i2)
        txt = txt + gate_t * self.txt_attn.proj(attended_txt)
        txt = txt + gate_t2 * self.txt_mlp((1 + scale_t2) * _norm(txt) + shift_t2)
        return img, txt


class _SingleBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.linear1 = nn.Linear(hidden, hidden * 7)
        self.linear2 = nn.Linear(hidden * 5, hidden)
        self.norm = _QKNorm()
        self.modulation = _Modulation(hidden, 3)

    def forward(self, x: Tensor, vector: Tensor, rope: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(vector)
        qkv, mlp = self.linear1((1 + scale) * _norm(x) + shift).split([self.hidden * 3, self.hidden * 4], dim=-1)
        attended = _attend(*_heads(qkv, self.norm), rope)
        out: Tensor = x + gate * self.linear2(torch.cat([attended, F.gelu(mlp, approximate="tanh")], dim=-1))
        return out


class _FinalLayer(nn.Module):
    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vector)[:, None].chunk(2, dim=-1)
        out: Tensor = self.linear((1 + scale) * _norm(x) + shift)
        return out


class Flux(nn.Module):
    """Predicts the velocity ``noise - data`` of a rectified flow."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.img_in = nn.Linear(config.channels, hidden)
        self.txt_in = nn.Linear(config.context, hidden)
        self.time_in = _Embedder(256, hidden)
        self.vector_in = _Embedder(config.pooled, hidden)
        self.guidance_in = _Embedder(256, hidden)
        self.double_blocks = nn.ModuleList(_DoubleBlock(hidden) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(_SingleBlock(hidden) for _ in range(config.depth_single))
        self.final_layer = _FinalLayer(hidden, config.channels)
        self._start_at_identity()

    def _start_at_identity(self) -> None:
        """Zero the modulations and the output: every block starts as the identity (Peebles and Xie, DiT)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if name.endswith(("_mod.lin", "modulation.lin", "adaLN_modulation.1", "final_layer.linear")):
                nn.init.zeros_(module.weight)

    def forward(self, latent: Tensor, time: Tensor, context: Tensor, pooled: Tensor, guidance: Tensor) -> Tensor:
        """Latent at ``time`` (B,) in [0, 1] -> velocity, both (B, 16, h, w); ``guidance`` (B,) as users give it."""
        height, width = latent.shape[2] // 2, latent.shape[3] // 2
        img = self.img_in(patchify(latent))
        txt = self.txt_in(context)
        vector = self.time_in(timestep_embedding(time).to(img.dtype)) + self.vector_in(pooled)
        vector = vector + self.guidance_in(timestep_embedding(guidance).to(img.dtype))
        rope = rotary(_positions(txt.shape[1], height, width, latent.device))
        for block in self.double_blocks:
            img, txt = block(img, txt, vector, rope)
        x = torch.cat([txt, img], dim=1)
        for block in self.single_blocks:
            x = block(x, vector, rope)
        return unpatchify(self.final_layer(x[:, txt.shape[1] :], vector), height, width)


def _positions(text: int, height: int, width: int, device: torch.device) -> Tensor:
    """Positions (text + height*width, 3): zeros for text, (0, row, column) for the picture."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    picture = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(text, 3, device=device, dtype=picture.dtype), picture])


def patchify(latent: Tensor) -> Tensor:
    """(B, C, 2h, 2w) -> (B, h*w, C*4), each token one 2x2 patch, channel first."""
    batch, channels, height, width = latent.shape
    x = latent.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(batch, height * width // 4, channels * 4)


def unpatchify(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of ``patchify`` for a grid of height x width tokens."""
    x = tokens.view(tokens.shape[0], height, width, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(tokens.shape[0], -1, height * 2, width * 2)
