"""InstantID's Resampler: face embeddings in, 16 identity tokens out.

A Perceiver resampler whose learned queries attend over (embeddings, queries). Dimensions are read from the weights; the
published ones are dim 1280, depth 4, 20 heads of 64, 16 queries, input 512, output 2048.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

HEAD_DIM = 64


def resample(weights: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
    """Identity tokens (B, queries, output) in float32 for raw embeddings ``vectors`` (B, n, 512).

    ``weights`` are the adapter's ``image_proj`` under their published names.
    """

    def weight(name: str) -> Tensor:
        return weights[name].float()

    x = functional.linear(vectors.float(), weight("proj_in.weight"), weight("proj_in.bias"))
    latents = weight("latents").expand(len(x), -1, -1)
    for layer in range(depth(weights)):
        latents = latents + _attend(weights, f"layers.{layer}.0", x, latents)
        latents = latents + _feed_forward(weights, f"layers.{layer}.1", latents)
    tokens = functional.linear(latents, weight("proj_out.weight"), weight("proj_out.bias"))
    return _norm(weights, "norm_out", tokens)


def depth(weights: Mapping[str, Tensor]) -> int:
    """Number of layers."""
    return sum(name.endswith(".0.to_q.weight") for name in weights)


def _attend(weights: Mapping[str, Tensor], name: str, x: Tensor, latents: Tensor) -> Tensor:
    """Queries from the latents; keys and values from the embeddings and the latents. Softmax in float32."""
    latents = _norm(weights, f"{name}.norm2", latents)
    source = torch.cat((_norm(weights, f"{name}.norm1", x), latents), dim=1)
    q = functional.linear(latents, weights[f"{name}.to_q.weight"].float())
    k, v = functional.linear(source, weights[f"{name}.to_kv.weight"].float()).chunk(2, dim=-1)
    q, k, v = (part.reshape(*part.shape[:2], -1, HEAD_DIM).transpose(1, 2) for part in (q, k, v))
    # The reference scales q and k by dim ** -1/4 each, which is the usual dim ** -1/2 on their product.
    out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return functional.linear(out, weights[f"{name}.to_out.weight"].float())


def _feed_forward(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = functional.linear(_norm(weights, f"{name}.0", x), weights[f"{name}.1.weight"].float())
    return functional.linear(functional.gelu(hidden), weights[f"{name}.3.weight"].float())


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    scale = weights[f"{name}.weight"].float()
    return functional.layer_norm(x, scale.shape, scale, weights[f"{name}.bias"].float())
