"""The text encoders' networks, CLIP's text tower and T5's encoder, under the names of the published files.

The engine reads prompts with them and ``training`` trains them. Nothing in them waits for the host or copies from
there, so that a whole training step can be captured as a CUDA graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_T5_EPSILON = 1e-6
_T5_FARTHEST = 128  # Distances from here on share the last bucket.


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of token ids: a state [B, N, D] for each, and the pooled one [B, D] (T5 has none)."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None


class _Table(nn.Module):
    """``nn.Embedding`` without its first values: drawing those on the meta device imports all of torch's compiler.

    In training a product with one-hot rows: its gradient is a product, too, which is the same every time and can be
    captured in a CUDA graph.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return functional.embedding(ids, self.weight)
        chosen = ids[..., None] == torch.arange(len(self.weight), device=ids.device)
        return chosen.to(self.weight.dtype) @ self.weight


@dataclass(frozen=True)
class ClipShape:
    """The dimensions of CLIP's text tower, and what is read of it.

    ``end`` is the id of the token whose state is the pooled one, ``projected`` the width of its projection, if it has
    one. ``penultimate``: the states are those before the last layer, as SDXL reads them. ``quick``: OpenAI's
    approximation of GELU.
    """

    vocabulary: int
    positions: int
    width: int
    inner: int
    layers: int
    heads: int
    end: int
    projected: int | None = None
    penultimate: bool = False
    quick: bool = True


class ClipText(nn.Module):
    """CLIP's text tower (Radford et al. 2021)."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.end, self.penultimate = shape.end, shape.penultimate
        self.text_model = _ClipTower(shape)
        if shape.projected is not None:
            self.text_projection = nn.Linear(shape.width, shape.projected, bias=False)

    def forward(self, ids: torch.Tensor) -> Encoded:
        """Encode ids [B, N]; pooled is the normed state of the first end token."""
        before = after = self.text_model.embeddings(ids)
        for layer in self.text_model.encoder.layers:
            before, after = after, layer(after)
        last = self.text_model.final_layer_norm(after)
        ends = (ids == self.end).int().argmax(dim=1)
        pooled = last.gather(1, ends[:, None, None].expand(-1, 1, last.shape[2]))[:, 0]
        if hasattr(self, "text_projection"):
            pooled = self.text_projection(pooled)
        return Encoded(before if self.penultimate else last, pooled)


class _ClipTower(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.embeddings = _ClipEmbeddings(shape)
        self.encoder = _ClipLayers(shape)
        self.final_layer_norm = nn.LayerNorm(shape.width)


class _ClipEmbeddings(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.token_embedding = _Table(shape.vocabulary, shape.width)
        self.position_embedding = _Table(shape.positions, shape.width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        return out


class _ClipLayers(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_ClipLayer(shape) for _ in range(shape.layers))


class _ClipLayer(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.self_attn = _ClipAttention(shape.width, shape.heads)
        self.mlp = _ClipMlp(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: torch.Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _ClipAttention(nn.Module):
    """Every token looks back only."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (_split(layer(x), self.heads) for layer in (self.q_proj, self.k_proj, self.v_proj))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class _ClipMlp(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.quick = shape.quick
        self.fc1, self.fc2 = nn.Linear(shape.width, shape.inner), nn.Linear(shape.inner, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = self.fc1(x)
        out: torch.Tensor = self.fc2(inside * torch.sigmoid(1.702 * inside) if self.quick else functional.gelu(inside))
        return out


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


@dataclass(frozen=True)
class T5Shape:
    """The dimensions of T5's encoder; ``head`` is the width of an attention head."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    head: int
    buckets: int


class T5Encoder(nn.Module):
    """T5 v1.1's encoder (Raffel et al. 2020): no biases, no scale on the attention, gated GELU."""

    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.shared = _Table(shape.vocabulary, shape.width)
        self.encoder = _T5Stack(shape)

    def forward(self, ids: torch.Tensor) -> Encoded:
        """Encode ids [B, N]; padding is read like any token, as Flux was trained."""
        return Encoded(self.encoder(self.shared(ids)))


class _T5Stack(nn.Module):
    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.buckets = shape.buckets
        self.block = nn.ModuleList(_T5Block(shape, first=number == 0) for number in range(shape.layers))
        self.final_layer_norm = _T5Norm(shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first: Any = self.block[0]
        table = first.layer[0].SelfAttention.relative_attention_bias
        bias = table(distance_buckets(x.shape[1], self.buckets, x.device)).permute(2, 0, 1)[None]
        for block in self.block:
            x = block(x, bias)
        out: torch.Tensor = self.final_layer_norm(x)
        return out


def distance_buckets(length: int, buckets: int, device: torch.device) -> torch.Tensor:
    """The bucket [length, length] of each key's distance from its query: half of them for either direction, of which
    half are exact and the others grow with the logarithm."""
    places = torch.arange(length, device=device)
    distance = places[None, :] - places[:, None]
    half, exact = buckets // 2, buckets // 4
    far = torch.log(distance.abs().clamp(min=1).float() / exact) / math.log(_T5_FARTHEST / exact) * (half - exact)
    near = torch.where(distance.abs() < exact, distance.abs(), (exact + far.long()).clamp(max=half - 1))
    return near + half * (distance > 0)


class _T5Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + _T5_EPSILON)
        return self.weight * normed.to(x.dtype)


class _T5Block(nn.Module):
    def __init__(self, shape: T5Shape, *, first: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_T5SelfAttention(shape, first=first), _T5FeedForward(shape)])

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer[1](self.layer[0](x, bias))
        return out


class _T5SelfAttention(nn.Module):
    def __init__(self, shape: T5Shape, *, first: bool) -> None:
        super().__init__()
        self.SelfAttention = _T5Attention(shape, first=first)
        self.layer_norm = _T5Norm(shape.width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.SelfAttention(self.layer_norm(x), bias)
        return out


class _T5Attention(nn.Module):
    """The first block's holds the table of distances for all."""

    def __init__(self, shape: T5Shape, *, first: bool) -> None:
        super().__init__()
        self.heads = shape.heads
        inner = shape.heads * shape.head
        self.q, self.k, self.v = (nn.Linear(shape.width, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, shape.width, bias=False)
        if first:
            self.relative_attention_bias = _Table(shape.buckets, shape.heads)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        query, key, value = (_split(layer(x), self.heads) for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), scale=1.0)
        out: torch.Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out


class _T5FeedForward(nn.Module):
    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.DenseReluDense = _T5Dense(shape)
        self.layer_norm = _T5Norm(shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.DenseReluDense(self.layer_norm(x))
        return out


class _T5Dense(nn.Module):
    def __init__(self, shape: T5Shape) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(shape.width, shape.inner, bias=False) for _ in range(2))
        self.wo = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.wo(functional.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return out
