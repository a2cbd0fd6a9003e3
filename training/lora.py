"""A low-rank adapter on the transformer's linear layers (Hu et al., 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from ryla_nodes.engines.embedded.inference.flux_network import Flux
from torch import Tensor, nn

TARGETS = ("qkv", "proj", "img_mlp.0", "img_mlp.2", "linear1", "linear2")


class LoraLinear(nn.Module):
    """Adds ``up @ down`` to one linear layer in place; alpha equals the rank, so the scale is 1."""

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        device = base.weight.device
        down = torch.randn(rank, base.in_features, generator=generator) / math.sqrt(base.in_features)
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        base.register_forward_hook(self._add)

    def _add(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(inputs[0], self.down), self.up)


def lora_parameters(flux: Flux, rank: int, seed: int) -> dict[str, LoraLinear]:
    """Hook an adapter onto every target layer; keyed by the layer's name, as ``double_blocks.0.img_attn.qkv``."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LoraLinear(module, rank, generator)
        for name, module in flux.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(TARGETS) and "blocks" in name
    }
