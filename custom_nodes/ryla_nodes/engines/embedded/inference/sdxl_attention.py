"""SDXL's cross-attention with room for an identity: diffusers attention processors that add its term."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from ....identity.attention import LAYERS

if TYPE_CHECKING:
    from ....identity.attention import IdentityTerm


@dataclass(frozen=True)
class ActiveIdentity:
    """What one call of the UNet adds: per identity a term for each layer of ``LAYERS``.

    ``half``: 0 for the conditional, 1 for the unconditional side; ``latent_size``: height and width.
    """

    terms: Sequence[Sequence[IdentityTerm]]
    half: int
    latent_size: tuple[int, int]


class IdentityProcessor:
    """Scaled dot-product attention; ``position`` is the layer's place in ``LAYERS``, None for self-attention."""

    def __init__(self, position: int | None) -> None:
        self.position = position

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        identity: ActiveIdentity | None = None,
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.to_q(hidden_states)
        parts = (q, attn.to_k(context), attn.to_v(context))
        heads = (part.reshape(*part.shape[:2], attn.heads, -1).transpose(1, 2) for part in parts)
        out = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        if identity is not None and self.position is not None:
            for terms in identity.terms:
                out = out + terms[self.position](q, (identity.half,), attn.heads, identity.latent_size)
        projected: torch.Tensor = attn.to_out[0](out)
        return projected


def install(unet: nn.Module) -> tuple[int, ...]:
    """Give every attention of ``unet`` its processor; returns the widths of the cross-attention layers in order."""
    widths: list[int] = []
    for name, module in _attention(unet):
        crosses = name.endswith("attn2")
        module.set_processor(IdentityProcessor(len(widths) if crosses else None))
        if crosses:
            widths.append(module.to_q.out_features)
    assert len(widths) == len(LAYERS)
    return tuple(widths)


def _attention(unet: Any) -> Iterator[tuple[str, Any]]:
    """Attention modules in the adapter's order: down, up, mid."""
    for part in (unet.down_blocks, unet.up_blocks, unet.mid_block):
        for name, module in part.named_modules():
            if name.endswith(("attn1", "attn2")):
                yield name, module
