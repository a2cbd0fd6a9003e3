"""T5's encoder and CLIP-L's text tower for training, under the parameter names of the published files.

Unlike the engine's (``engines.embedded.inference.text_networks``) they copy nothing from the host and index
no rows, so that a whole training step can be captured as a CUDA graph. Tests hold both equal to transformers'.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BUCKETS, FARTHEST = 32, 128


def _look_up(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of ``table`` as a product with one-hot rows: its gradient is a product, too, the same every time."""
    return (ids[..., None] == torch.arange(table.shape[0], device=ids.device)).to(table.dtype) @ table


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class _RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def relative_buckets(length: int, device: torch.device) -> Tensor:
    """Bucket (length, length) of every key's distance from its query (Raffel et al., 2020, both directions)."""
    places = torch.arange(length, device=device)
    distance = places[None, :] - places[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    far = exact + torch.log(distance.abs().float() / exact) / math.log(FARTHEST / exact) * (half - exact)
    near = torch.where(distance.abs() < exact, distance.abs(), far.long().clamp(max=half - 1))
    return torch.where(distance > 0, near + half, near)


class _T5Attention(nn.Module):
    def __init__(self, width: int, heads: int, with_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        if with_bias:
            self.relative_attention_bias = nn.Embedding(BUCKETS, heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (_split(layer(x), self.heads) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        result: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return result


class _T5Dense(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.wo = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return out


class _T5Layer(nn.Module):
    """Pre-normed residual around one part, named as the published file names it."""

    def __init__(self, name: str, part: nn.Module, width: int) -> None:
        super().__init__()
        self.add_module(name, part)
        self.name, self.layer_norm = name, _RMSNorm(width)

    def forward(self, x: Tensor, *bias: Tensor) -> Tensor:
        out: Tensor = x + getattr(self, self.name)(self.layer_norm(x), *bias)
        return out


class _T5Block(nn.Module):
    def __init__(self, width: int, heads: int, with_bias: bool) -> None:
        super().__init__()
        attention = _T5Layer("SelfAttention", _T5Attention(width, heads, with_bias), width)
        self.layer = nn.ModuleList([attention, _T5Layer("DenseReluDense", _T5Dense(width, 2 * width), width)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = self.layer[1](self.layer[0](x, bias))
        return out


class _T5Stack(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(_T5Block(width, heads, i == 0) for i in range(layers))
        self.final_layer_norm = _RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias = _look_up(relative_buckets(x.shape[1], x.device), table).permute(2, 0, 1)[None]
        for block in self.block:
            x = block(x, bias)
        out: Tensor = self.final_layer_norm(x)
        return out


class T5Encoder(nn.Module):
    """Token ids (B, N) -> context (B, N, width); 64-wide heads, gated tanh-GELU, padding attended as FLUX.1 does."""

    def __init__(self, vocabulary: int, width: int, layers: int = 2) -> None:
        super().__init__()
        self.shared = nn.Embedding(vocabulary, width)
        self.encoder = _T5Stack(width, width // 64, layers)
        for name, parameter in self.named_parameters():
            if name.endswith("SelfAttention.q.weight"):
                nn.init.normal_(parameter, std=1 / math.sqrt(width * 64))
            elif parameter.dim() == 2 and "shared" not in name:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.encoder(_look_up(ids, self.shared.weight))
        return out


class _ClipAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_split(layer(x), self.heads) for layer in (self.q_proj, self.k_proj, self.v_proj))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return result


class _ClipMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        out: Tensor = self.fc2(h * torch.sigmoid(1.702 * h))
        return out


class _ClipLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = _ClipAttention(width, heads), _ClipMlp(width)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _ClipEmbeddings(nn.Module):
    def __init__(self, vocabulary: int, width: int, length: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(length, width)
        nn.init.normal_(self.token_embedding.weight, std=0.1)
        nn.init.normal_(self.position_embedding.weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = _look_up(ids, self.token_embedding.weight) + self.position_embedding.weight[: ids.shape[1]]
        return out


class _ClipStack(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_ClipLayer(width, width // 64) for _ in range(layers))


class _ClipTower(nn.Module):
    def __init__(self, vocabulary: int, width: int, length: int, layers: int) -> None:
        super().__init__()
        self.embeddings = _ClipEmbeddings(vocabulary, width, length)
        self.encoder = _ClipStack(width, layers)
        self.final_layer_norm = nn.LayerNorm(width)


class ClipText(nn.Module):
    """Token ids (B, N) -> pooled vector (B, width): the state at the first end of text, ``vocabulary - 1``."""

    def __init__(self, vocabulary: int, width: int, length: int, layers: int = 2) -> None:
        super().__init__()
        self.end = vocabulary - 1
        self.text_model = _ClipTower(vocabulary, width, length, layers)

    def forward(self, ids: Tensor) -> Tensor:
        tower = self.text_model
        x = tower.embeddings(ids)
        for layer in tower.encoder.layers:
            x = layer(x)
        place = (ids == self.end).int().argmax(dim=1)
        picked = x.gather(1, place[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        out: Tensor = tower.final_layer_norm(picked)
        return out
