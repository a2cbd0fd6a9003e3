"""The embedded engine's own networks, with the values that training starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from ryla_nodes.engines.embedded.inference.flux import LATENT
from ryla_nodes.engines.embedded.inference.flux_network import Flux, FluxShape
from ryla_nodes.engines.embedded.inference.text_networks import ClipShape, ClipText, T5Encoder, T5Shape
from ryla_nodes.engines.embedded.inference.vae import Autoencoder, VaeShape
from torch import Tensor, nn

from .text import CLIP_LENGTH

LATENT_CHANNELS = 16
HEAD = 64
"""Of T5 and CLIP-L."""
BUCKETS = 32


def flux(shape: FluxShape) -> Flux:
    """The transformer, in which every block is the identity at first (Peebles and Xie 2023, DiT)."""
    module = Flux(shape)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        if name.endswith(("_mod.lin", "modulation.lin", "adaLN_modulation.1", "final_layer.linear")):
            nn.init.zeros_(layer.weight)
    return module


def t5(vocabulary: int, width: int, layers: int = 2) -> T5Encoder:
    """T5's encoder; its attention has no scale, so that its queries are small at first."""
    module = T5Encoder(T5Shape(vocabulary, width, 2 * width, layers, width // HEAD, HEAD, BUCKETS))
    for name, weight in module.named_parameters():
        if weight.dim() == 1:
            nn.init.ones_(weight)
        elif name == "shared.weight":
            nn.init.normal_(weight)
        else:
            scale = HEAD if name.endswith("SelfAttention.q.weight") else 1
            nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[1] * scale))
    return module


def clip_l(vocabulary: int, width: int, layers: int = 2) -> ClipText:
    """CLIP-L's text tower; the last token of the vocabulary ends a text."""
    shape = ClipShape(vocabulary, CLIP_LENGTH, width, 4 * width, layers, width // HEAD, end=vocabulary - 1)
    module = ClipText(shape)
    for name, weight in module.named_parameters():
        if "embeddings." in name:
            nn.init.normal_(weight, std=0.1)
    return module


class TextEncoders(nn.Module):
    """T5 for the tokens, CLIP-L for the pooled vector; trained together with the transformer."""

    def __init__(self, context: int, pooled: int, t5_vocabulary: int, clip_vocabulary: int) -> None:
        super().__init__()
        self.t5, self.clip = t5(t5_vocabulary, context), clip_l(clip_vocabulary, pooled)

    def forward(self, t5_ids: Tensor, clip_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, N, context) and pooled vector (B, pooled) of token ids (B, N) and (B, 77)."""
        return self.t5(t5_ids).states, self.clip(clip_ids).pooled


def autoencoder(widths: Sequence[int]) -> Autoencoder:
    """FLUX.1's autoencoder; ``widths`` are the channels of the levels, finest first.

    Each is at least twice the 32 groups of the norms: a group of one channel forgets how bright a flat picture is.
    """
    return Autoencoder(VaeShape(widths, blocks=2, latent=LATENT_CHANNELS, quant=False, post_quant=False))


@torch.no_grad()
def fold_latent_format(vae: Autoencoder, mean: float, std: float) -> None:
    """Rescale latents of this mean and deviation to those of FLUX.1, in the layers at both ends."""
    gain = 1 / (LATENT.scale * std)
    out, entry = vae.encoder.conv_out, vae.decoder.conv_in
    out.weight[:LATENT_CHANNELS] *= gain
    out.bias[:LATENT_CHANNELS] = (out.bias[:LATENT_CHANNELS] - mean) * gain + LATENT.shift
    entry.bias += entry.weight.sum(dim=(1, 2, 3)) * (mean - LATENT.shift / gain)
    entry.weight /= gain
