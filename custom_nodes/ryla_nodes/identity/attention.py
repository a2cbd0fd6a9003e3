"""Decoupled cross-attention: add what the identity tokens say to what the text says, layer by layer.

    out = attention(q, K_text, V_text) + weight x attention(q, K_identity, V_identity)

before the layer's output projection (IP-Adapter, arXiv 2308.06721; InstantID, arXiv 2401.07519).

The adapter's file counts input, then output, then middle blocks, and odd numbers only (the even ones would be
self-attention); ComfyUI asks for the middle block as ``("middle", 0, i)``. Checked against diffusers'
``attn_processors`` and ComfyUI's ``unet_to_diffusers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import RylaError

COND = 0


class LayerKey(NamedTuple):
    """A transformer block as ComfyUI's ``patches_replace`` names it."""

    block: str
    number: int
    depth: int


_DEPTHS = (
    *(("input", 4 + i, 2) for i in range(2)),
    *(("input", 7 + i, 10) for i in range(2)),
    *(("output", i, 10) for i in range(3)),
    *(("output", 3 + i, 2) for i in range(3)),
    ("middle", 0, 10),
)
LAYERS: tuple[LayerKey, ...] = tuple(LayerKey(block, i, n) for block, i, depth in _DEPTHS for n in range(depth))


def adapter_name(position: int, part: str) -> str:
    """Key of layer ``LAYERS[position]`` in the adapter's ``ip_adapter``; ``part`` is "k" or "v"."""
    return f"{2 * position + 1}.to_{part}_ip.weight"


@dataclass(frozen=True)
class LayerKV:
    """Identity keys and values of one cross-attention layer, each (1, tokens, width)."""

    cond_k: Tensor
    cond_v: Tensor
    uncond_k: Tensor
    uncond_v: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> LayerKV:
        parts = (self.cond_k, self.cond_v, self.uncond_k, self.uncond_v)
        return LayerKV(*(part.to(device, dtype) for part in parts))


class Window:
    """The part of the schedule in which the identity acts: sigmas in [end, start]."""

    def __init__(self, start: float, end: float) -> None:
        self._start, self._end = start, end
        self._last: tuple[Tensor, bool] | None = None

    def contains(self, sigmas: Tensor) -> bool:
        """Whether the step at ``sigmas`` (B,) is inside. All layers of a step pass the same tensor: it is read once."""
        if self._last is None or self._last[0] is not sigmas:
            self._last = (sigmas, self._start >= float(sigmas.flatten()[0]) >= self._end)
        return self._last[1]


class IdentityTerm:
    """``weight x attention(q, K_identity, V_identity)`` of one layer, with an optional mask over the picture."""

    def __init__(self, kv: LayerKV, weight: float, mask: Tensor | None) -> None:
        self._kv, self._weight, self._mask = kv, weight, mask

    def __call__(self, q: Tensor, halves: Sequence[int], heads: int, latent_size: tuple[int, int]) -> Tensor:
        """The term for ``q`` (B, tokens, width), already projected.

        Args:
            halves: one entry per equal chunk of the batch, 0 for conditional and 1 for unconditional.
            latent_size: height and width of the latent that is sampled.
        """
        # The first call moves keys, values and mask to where q is; they stay there (0.15 MB a layer).
        self._kv = self._kv.to(q.device, q.dtype)
        out = _attend(q, self._kv, halves, heads) * self._weight
        if self._mask is None:
            return out
        self._mask = self._mask.to(q.device)
        return out * token_mask(self._mask, q.shape[1], latent_size, len(q)).to(q)


def _attend(q: Tensor, kv: LayerKV, halves: Sequence[int], heads: int) -> Tensor:
    rows = q.shape[0] // len(halves)
    chosen = [(kv.cond_k, kv.cond_v) if half == COND else (kv.uncond_k, kv.uncond_v) for half in halves]
    k, v = (torch.cat([part.expand(rows, -1, -1) for part in parts]) for parts in zip(*chosen, strict=True))
    q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def token_grid(tokens: int, latent_height: int, latent_width: int) -> tuple[int, int]:
    """Rows and columns of a layer's token grid: the latent's size halved, rounding up, until it fits.

    Raises ``mask_grid`` when another patch has cut the picture into pieces, so that there is no such grid.
    """
    height, width = latent_height, latent_width
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        size = f"{latent_width}x{latent_height}"
        raise RylaError("mask_grid", f"A mask cannot be laid over {tokens} tokens of a {size} latent.")
    return height, width


def token_mask(mask: Tensor, tokens: int, latent_size: tuple[int, int], rows: int) -> Tensor:
    """``mask`` (n, H, W) in [0, 1] on a layer's tokens: (rows, tokens, 1), its pictures repeated over the rows."""
    grid = token_grid(tokens, *latent_size)
    small = functional.interpolate(mask[:, None].float(), size=grid, mode="bilinear", antialias=True)
    repeats = -(-rows // len(small))
    return small.flatten(2).transpose(1, 2).repeat(repeats, 1, 1)[:rows]
