"""Which weights of the adapter belong to which cross-attention layer of an SDXL UNet.

The file counts input, then output, then middle blocks, and odd numbers only (the even ones would be self-attention);
ComfyUI asks for the middle block as ``("middle", 0, i)``. Checked against diffusers' ``attn_processors`` and ComfyUI's
``unet_to_diffusers``.
"""

from __future__ import annotations

from typing import NamedTuple


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
