"""Names of Flux's weights: BFL's (the files') and diffusers' (the network's)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
    "linear2": ("proj_out",),
}
_BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Target:
    """A diffusers module and the rows of BFL's weight that it takes, from ``start``; no ``length`` means the rest.

    ``swapped``: BFL holds (shift, scale), diffusers (scale, shift).
    """

    module: str
    start: int = 0
    length: int | None = None
    swapped: bool = False

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """This module's rows of a BFL weight, bias or LoRA up matrix (dimension 0 is the output)."""
        import torch

        if self.swapped:
            shift, scale = tensor.chunk(2, dim=0)
            return torch.cat((scale, shift))
        end = None if self.length is None else self.start + self.length
        return tensor[self.start : end]


def targets(bfl_module: str, hidden: int) -> tuple[Target, ...]:
    """Where a BFL module's rows go, in their order; empty for a name that Flux does not have. ``hidden``: the width."""
    if bfl_module in _TOP:
        return (Target(_TOP[bfl_module], swapped=bfl_module == "final_layer.adaLN_modulation.1"),)
    match = _BLOCK.fullmatch(bfl_module)
    if match is None:
        return ()
    kind, index, rest = match.groups()
    block, names = ("transformer_blocks", _DOUBLE) if kind == "double" else ("single_transformer_blocks", _SINGLE)
    modules = [f"{block}.{index}.{name}" for name in names.get(rest, ())]
    if len(modules) == 1:
        return (Target(modules[0]),)
    # Fused rows: query, key, value of `hidden` rows each, then (in single blocks) the MLP's.
    return tuple(
        Target(module, hidden * number, hidden if number < 3 else None) for number, module in enumerate(modules)
    )


def bfl_modules(double_blocks: int, single_blocks: int) -> Iterator[str]:
    """The BFL names of every module of a Flux of this depth."""
    yield from _TOP
    for index in range(double_blocks):
        yield from (f"double_blocks.{index}.{name}" for name in _DOUBLE)
    for index in range(single_blocks):
        yield from (f"single_blocks.{index}.{name}" for name in _SINGLE)


def to_diffusers(name: str, tensor: torch.Tensor, hidden: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Split one BFL tensor into diffusers' (views where possible); nothing for a name that Flux does not have."""
    module, _, kind = name.rpartition(".")
    for target in targets(module, hidden):
        yield f"{target.module}.{'weight' if kind == 'scale' else kind}", target.rows(tensor)
