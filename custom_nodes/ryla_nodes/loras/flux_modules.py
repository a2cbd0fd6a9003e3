"""What LoRA files call the modules of FLUX.1, and the weights that they mean by it.

The published file's names (BFL's) are the network's own. kohya, ComfyUI and ai-toolkit keep them; diffusers, PEFT,
OneTrainer and SimpleTuner write diffusers' names, which take BFL's fused weights apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
_CLIP_LAYERS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)


@dataclass(frozen=True)
class Place:
    """Rows of the weight of ``module``, from ``start`` to before ``stop`` (None: to the end).

    ``swapped``: the network holds (shift, scale), the LoRA's writer (scale, shift).
    """

    module: str
    start: int = 0
    stop: int | None = None
    swapped: bool = False

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """The writer's rows of a whole weight, bias or up matrix (dimension 0 is the output)."""
        return self.ordered(tensor[self.start : self.stop])

    def ordered(self, rows: torch.Tensor) -> torch.Tensor:
        """The writer's rows in the network's order, and the other way round."""
        if not self.swapped:
            return rows
        import torch

        first, second = rows.chunk(2, dim=0)
        return torch.cat((second, first))


Places = Mapping[str, Place]
"""What a LoRA may call a module -> the rows that it stands for."""


def modules(double_blocks: int, single_blocks: int) -> Iterator[str]:
    """Every module of a transformer of this depth, by its own name."""
    yield from _TOP
    for index in range(double_blocks):
        yield from (f"double_blocks.{index}.{name}" for name in _DOUBLE)
    for index in range(single_blocks):
        yield from (f"single_blocks.{index}.{name}" for name in _SINGLE)


def diffusers_parts(module: str, hidden: int) -> dict[str, Place]:
    """diffusers' modules that make up ``module``, in the order of its rows; {} for a name that FLUX.1 does not have.

    ``hidden`` is the width of the transformer.
    """
    if module in _TOP:
        return {_TOP[module]: Place(module, swapped=module == "final_layer.adaLN_modulation.1")}
    match = _BLOCK.fullmatch(module)
    if match is None:
        return {}
    kind, index, rest = match.groups()
    block, layers = ("transformer_blocks", _DOUBLE) if kind == "double" else ("single_transformer_blocks", _SINGLE)
    names = [f"{block}.{index}.{name}" for name in layers.get(rest, ())]
    if len(names) == 1:
        return {names[0]: Place(module)}
    # Query, key and value of `hidden` rows each, then (in single blocks) the MLP's.
    stops = (hidden, 2 * hidden, 3 * hidden, None)
    return {name: Place(module, number * hidden, stops[number]) for number, name in enumerate(names)}


def transformer(double_blocks: int, single_blocks: int, hidden: int) -> Places:
    """The transformer's modules as kohya, BFL, diffusers, PEFT, ai-toolkit, OneTrainer and SimpleTuner write them."""
    places: dict[str, Place] = {}
    for module in modules(double_blocks, single_blocks):
        places |= {f"lora_unet_{_flat(module)}": Place(module), f"diffusion_model.{module}": Place(module)}
        for name, place in diffusers_parts(module, hidden).items():
            spellings = (f"transformer.{name}", f"lora_transformer_{_flat(name)}", f"lycoris_{_flat(name)}", name)
            places |= dict.fromkeys(spellings, place)
    return places


def xlabs(double_blocks: int, single_blocks: int, hidden: int) -> Places:
    """XLabs' (and USO's) names, which ComfyUI reads in files with all blocks of FLUX.1."""
    places: dict[str, Place] = {}
    for index in range(double_blocks):
        for side, number in (("img", 1), ("txt", 2)):
            for part in ("qkv", "proj"):
                name = f"double_blocks.{index}.processor.{part}_lora{number}"
                places[name] = Place(f"double_blocks.{index}.{side}_attn.{part}")
    for index in range(single_blocks):
        block = f"single_blocks.{index}"
        places[f"{block}.processor.qkv"] = Place(f"{block}.linear1", 0, 3 * hidden)
        places[f"{block}.processor.proj"] = Place(f"{block}.linear2")
    return places


def clip_l(linear: Iterable[str]) -> Places:
    """CLIP-L's modules; ``linear`` are the names of its linear layers."""
    places: dict[str, Place] = {}
    for name in linear:
        if name.startswith("text_model.encoder.layers.") and name.endswith(_CLIP_LAYERS):
            flat = _flat(name)
            spellings = (f"lora_te_{flat}", f"lora_te1_{flat}", f"text_encoder.{name}")
            places |= dict.fromkeys((*spellings, f"text_encoders.clip_l.transformer.{name}"), Place(name))
    return places


def t5xxl(linear: Iterable[str]) -> Places:
    """T5's modules; ``linear`` are the names of its linear layers."""
    places: dict[str, Place] = {}
    for name in linear:
        flat = _flat(name)
        spellings = (f"lora_te2_{flat}", f"lora_te3_{flat}", f"text_encoders.t5xxl.transformer.{name}")
        places |= dict.fromkeys(spellings, Place(name))
    return places


def _flat(name: str) -> str:
    return name.replace(".", "_")
