"""Which model family a LoRA was trained for, from the names and the widths of the layers it patches.

Layer names alone decide where they are a family's own. Families that share names (FLUX.1, FLUX.2, SD3 and Qwen-Image
all have ``transformer_blocks.*.attn.to_q``) are told apart by block numbers and widths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal, get_args

from .keys import Module

Family = Literal[
    "flux",
    "flux2",
    "chroma",
    "sdxl",
    "sd15",
    "sd2",
    "sd3",
    "wan",
    "qwen-image",
    "z-image",
    "lumina2",
    "hunyuan-video",
    "unknown",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
TITLES: dict[str, str] = {
    "flux": "FLUX.1",
    "flux2": "FLUX.2",
    "chroma": "Chroma",
    "sdxl": "SDXL",
    "sd15": "Stable Diffusion 1.5",
    "sd2": "Stable Diffusion 2",
    "sd3": "Stable Diffusion 3",
    "wan": "Wan",
    "qwen-image": "Qwen-Image",
    "z-image": "Z-Image",
    "lumina2": "Lumina 2",
    "hunyuan-video": "HunyuanVideo",
    "unknown": "an unknown family",
}

_FLUX_WIDTH = 3072
_FLUX_DOUBLE, _FLUX_SINGLE = 19, 38  # Blocks of FLUX.1; HunyuanVideo has 20 and 40, FLUX.2 8 and 48.
_FLUX2_WIDTHS = (4096, 6144)
_SD3_WIDTHS = (1536, 2432)
_SD3_BLOCKS = 38
_LUMINA_WIDTH = 2304
_CONTEXT_WIDTH: dict[int, Family] = {768: "sd15", 1024: "sd2", 2048: "sdxl"}  # Of the text that attn2 attends to.

_METADATA: tuple[tuple[str, Family], ...] = (  # Searched in this order in what the trainer wrote about the base model.
    (r"flux[-_. ]?2", "flux2"),
    (r"chroma", "chroma"),
    (r"flux", "flux"),
    (r"qwen", "qwen-image"),
    (r"z[-_ ]?image", "z-image"),
    (r"lumina", "lumina2"),
    (r"hunyuan", "hunyuan-video"),
    (r"wan[-_ ]?2|\bwan", "wan"),
    (r"sd[-_ ]?xl|-xl-", "sdxl"),
    (r"sd[-_ ]?3|stable-diffusion-v?3", "sd3"),
    (r"sd[-_ ]?(v?1)|stable-diffusion-v?1", "sd15"),
    (r"sd[-_ ]?(v?2)|stable-diffusion-v?2", "sd2"),
)


def title(family: str) -> str:
    """A family's name for people."""
    return TITLES.get(family, family)


def from_modules(modules: Iterable[Module]) -> Family:
    """The family told by the layers; "unknown" when they fit several or none."""
    found = list(modules)
    layers = _Layers([module for module in found if module.component == "model"])
    for rule in (_dual_stream, _joint, _unet, _single_stream):
        family = rule(layers)
        if family is not None:
            return family
    # CLIP-G beside CLIP-L and no T5 is SDXL's pair; CLIP-L alone belongs to several families.
    encoders = {module.component for module in found} - {"model"}
    return "sdxl" if not layers.modules and encoders == {"clip_l", "clip_g"} else "unknown"


def from_text(*texts: str | None) -> Family:
    """The family named in what a trainer wrote about its base model (used only where the layers do not tell)."""
    for text in filter(None, texts):
        for pattern, family in _METADATA:
            if re.search(pattern, text.casefold()):
                return family
    return "unknown"


class _Layers:
    def __init__(self, modules: list[Module]) -> None:
        self.modules = [(module.name, module) for module in modules]

    def any(self, pattern: str) -> bool:
        return any(re.search(pattern, name) for name, _ in self.modules)

    def blocks(self, prefix: str) -> int:
        """One more than the highest block number of the names that begin with ``prefix``."""
        numbers = (re.match(rf"{prefix}_(\d+)_", name) for name, _ in self.modules)
        return 1 + max((int(match[1]) for match in numbers if match), default=-1)

    def widths(self, pattern: str, take: Callable[[tuple[int, int]], float]) -> set[float]:
        sizes = (module.width for name, module in self.modules if re.search(pattern, name))
        return {take(size) for size in sizes if size is not None}

    def inputs(self, pattern: str) -> set[float]:
        return self.widths(pattern, lambda size: size[1])

    def ratios(self, pattern: str) -> set[float]:
        return self.widths(pattern, lambda size: size[0] / size[1])


def _dual_stream(layers: _Layers) -> Family | None:
    """Blocks over text and picture apart, then over both: FLUX.1 and relatives, in original or diffusers' names."""
    double = max(layers.blocks("double_blocks"), layers.blocks("transformer_blocks"))
    single = max(layers.blocks("single_blocks"), layers.blocks("single_transformer_blocks"))
    if not (single or layers.blocks("double_blocks")) or layers.any(r"^joint_transformer_blocks_"):
        return None
    if layers.any(r"_mlp_fc[12]$|_mod(ulation)?_linear$|token_refiner"):
        return "hunyuan-video"
    if layers.any(r"^distilled_guidance_layer"):
        return "chroma"
    if layers.any(r"stream_modulation|to_qkv_mlp_proj|_ff(_context)?_linear_(in|out)$"):
        return "flux2"
    # FLUX.2's gated MLP makes linear1 9 and mlp.0 6 times as wide as the stream; FLUX.1's are 7 and 4.
    gated = 9 in layers.ratios(r"^single_blocks_\d+_linear1$") or 6 in layers.ratios(r"_(img|txt)_mlp_0$")
    if gated or layers.inputs(r"_attn_(qkv|to_q|proj)$").intersection(_FLUX2_WIDTHS):
        return "flux2"
    return "hunyuan-video" if double > _FLUX_DOUBLE or single > _FLUX_SINGLE else "flux"


def _joint(layers: _Layers) -> Family | None:
    """Only blocks over text and picture together: SD3 and Qwen-Image; or FLUX.1 with its single blocks left out."""
    if layers.any(r"^joint_blocks_\d+_(x|context)_block_"):
        return "sd3"
    if layers.any(r"^transformer_blocks_\d+_(img|txt)_(mlp|mod)_"):
        return "qwen-image"
    if not layers.any(r"^transformer_blocks_\d+_(attn_(to_|add_)|ff_|norm1_)") or layers.any(r"_attn1_"):
        return None
    blocks = layers.blocks("transformer_blocks")
    widths = layers.inputs(r"_attn_(to_[qkv]|add_[qkv]_proj)$")
    if widths.intersection(_SD3_WIDTHS) or layers.any(r"_attn2_"):
        return "sd3"
    if blocks > _SD3_BLOCKS:
        return "qwen-image"
    if widths == {_FLUX_WIDTH}:
        return "flux" if blocks <= _FLUX_DOUBLE else "qwen-image"
    return None


def _unet(layers: _Layers) -> Family | None:
    """The U-Nets of Stable Diffusion, in diffusers' or the original block names."""
    if not layers.any(r"^(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_"):
        return None
    for width in layers.inputs(r"_attn2(_processor)?_to_[kv]$"):
        if int(width) in _CONTEXT_WIDTH:
            return _CONTEXT_WIDTH[int(width)]
    if layers.any(r"_transformer_blocks_[1-9]"):
        return "sdxl"
    return "sd15" if layers.any(r"^(down_blocks_0_attentions|up_blocks_3_attentions|input_blocks_1_1)_") else None


def _single_stream(layers: _Layers) -> Family | None:
    """Transformers with one kind of block: Wan, Z-Image and Lumina 2."""
    if layers.any(r"^(vace_)?blocks_\d+_((self|cross)_attn_(q|k|v|o|k_img|v_img|norm_[qk])|ffn_[02])$"):
        return "wan"
    if layers.any(r"^(vace_)?blocks_\d+_(attn[12]_(to|add)_|ffn_net_)"):
        return "wan"
    if layers.any(r"^(layers|noise_refiner|context_refiner)_\d+_(attention_|feed_forward_w|adaLN_modulation)"):
        return "lumina2" if _LUMINA_WIDTH in layers.inputs(r"_(attention_(qkv|to_q|out)|w1)$") else "z-image"
    return None
