"""Which model family a LoRA was trained for: told by the layers it patches; where these fit several, by its metadata.

Families share names (FLUX.1, FLUX.2, Chroma, HunyuanVideo, SD3 and Qwen-Image all have
``transformer_blocks.*.attn.to_q``) and widths (3072 in most of them). So a rule gives every family that the layers
allow, the likeliest first; only what no other family has is a proof.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
    "hunyuan-image",
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
    "hunyuan-image": "HunyuanImage",
    "unknown": "an unknown family",
}

_WIDTH = 3072  # Of FLUX.1, Chroma, HunyuanVideo, Qwen-Image and FLUX.2 klein 4B.
_FLUX2_WIDTHS = (4096, 6144)
_SD3_WIDTHS = (1536, 2432)
_HUNYUAN_IMAGE_WIDTH = 3584
_LUMINA_WIDTH, _Z_IMAGE_WIDTH = 2304, 3840
_HUNYUAN_VIDEO_15_WIDTH = 2048
# Most double (or joint) and single blocks. FLUX.2 klein 4B, the only FLUX.2 as wide as FLUX.1, has 5 and 20.
_BLOCKS: dict[Family, tuple[int, int]] = {
    "flux": (19, 38),
    "chroma": (19, 38),
    "hunyuan-video": (20, 40),
    "flux2": (5, 20),
    "qwen-image": (60, 0),
    "sd3": (38, 0),
}
_FLUX2_BLOCKS = (8, 48)
_CONTEXT_WIDTH: dict[int, Family] = {768: "sd15", 1024: "sd2", 2048: "sdxl"}  # Of the text that attn2 attends to.

_NAMES: tuple[tuple[str, Family], ...] = (  # Searched in this order in what a trainer or a site says of the base model.
    (r"flux[-_. ]?2(?!\d)|flux[-_. ]?klein|^klein", "flux2"),
    (r"(?<!zeta_)(?<!zeta-)chroma", "chroma"),
    (r"flux|^flex[-_. ]?[12]", "flux"),
    (r"qwen[-_ ]?image|^qwen$", "qwen-image"),
    (r"z[-_ ]?image", "z-image"),
    (r"lumina", "lumina2"),
    (r"hunyuan[-_ ]?image", "hunyuan-image"),
    (r"hunyuan[-_ ]?video|framepack", "hunyuan-video"),
    (r"\bwan(?=[-_ .\d]|$)", "wan"),
    (r"sd[-_ ]?xl|[-_]xl[-_]|pony(?![-_ ]?(diffusion[-_ ]?)?v?7)|illustrious|noobai|animagine", "sdxl"),
    (r"sd[-_ ]?3|stable[-_ ]diffusion[-_ ]v?3", "sd3"),
    (r"sd[-_ ]?(v?1)|stable[-_ ]diffusion[-_ ]v?1", "sd15"),
    (r"sd[-_ ]?(v?2)|stable[-_ ]diffusion[-_ ]v?2", "sd2"),
)


_SAYS_NOTHING = ("unknown", "custom", "other", "lora", "none")


@dataclass(frozen=True)
class Claim:
    """What ``source`` says of the base model. ``exact``: it names an architecture, and not a file or a repository."""

    source: str
    text: str
    exact: bool = False


@dataclass(frozen=True)
class Verdict:
    """The family of a LoRA.

    ``family`` is the likeliest of ``possible``, "unknown" when that is empty; ``source`` is "layers", the claim that
    decided, or "" for a guess. ``remarks`` say what does not go together.
    """

    family: Family
    possible: tuple[Family, ...]
    source: str
    remarks: tuple[str, ...] = ()


def title(family: str) -> str:
    """A family's name for people."""
    return TITLES.get(family, family)


def decide(modules: Iterable[Module], claims: Sequence[Claim]) -> Verdict:
    """The family told by the layers; where they fit several, the first claim that names one of these decides.

    An exact claim of an architecture that is not known here leaves the family unknown, unless the layers are proof.
    """
    possible = from_modules(modules)
    named = [(claim, from_text(claim.text)) for claim in claims]
    if len(possible) == 1:
        return Verdict(possible[0], possible, "layers", _contradictions(possible[0], named))
    for claim, family in named:
        if family in possible or (not possible and family != "unknown"):
            return Verdict(family, (family,), claim.source, _contradictions(family, named))
        if claim.exact and family == "unknown" and claim.text.casefold() not in _SAYS_NOTHING:
            line = f"{claim.source} names the architecture {claim.text!r}, which is none that is known here"
            return Verdict("unknown", (), claim.source, (line,))
    if not possible:
        return Verdict("unknown", (), "")
    others = ", ".join(title(family) for family in possible)
    line = f"its layers fit {others} alike, and nothing in the file says which it is for"
    return Verdict(possible[0], possible, "", (line, *_contradictions(possible[0], named)))


def _contradictions(family: Family, named: Sequence[tuple[Claim, Family]]) -> tuple[str, ...]:
    """What exact claims say against the layers."""
    other = next((pair for pair in named if pair[0].exact and pair[1] not in (family, "unknown")), None)
    if other is None:
        return ()
    return (f"{other[0].source} says {title(other[1])}, its layers are those of {title(family)}",)


def from_text(*texts: str | None) -> Family:
    """The family named in what was written about a base model."""
    for text in filter(None, texts):
        for pattern, family in _NAMES:
            if re.search(pattern, text.casefold()):
                return family
    return "unknown"


def from_modules(modules: Iterable[Module]) -> tuple[Family, ...]:
    """Every family that the layers fit, the likeliest first; () when they fit none."""
    found = list(modules)
    encoders = {module.component for module in found} - {"model"}
    layers = _Layers([module for module in found if module.component == "model"], encoders)
    for rule in (_for_flux_only, _dual_stream, _joint, _unet, _single_stream):
        families = rule(layers)
        if families:
            return families
    # CLIP-G beside CLIP-L and no T5 is SDXL's pair; CLIP-L alone belongs to several families.
    return ("sdxl",) if not layers.modules and encoders == {"clip_l", "clip_g"} else ()


class _Layers:
    def __init__(self, modules: list[Module], encoders: set[str]) -> None:
        self.modules = [(module.name, module) for module in modules]
        self.schemes = {module.scheme for module in modules}
        self.encoders = encoders

    def any(self, pattern: str) -> bool:
        return any(re.search(pattern, name) for name, _ in self.modules)

    def numbers(self, prefix: str) -> set[int]:
        """The block numbers of the names that begin with ``prefix``."""
        matches = (re.match(rf"{prefix}_(\d+)_", name) for name, _ in self.modules)
        return {int(match[1]) for match in matches if match}

    def widths(self, pattern: str, take: Callable[[tuple[int, int]], float]) -> set[float]:
        sizes = (module.width for name, module in self.modules if re.search(pattern, name))
        return {take(size) for size in sizes if size is not None}

    def inputs(self, pattern: str) -> set[float]:
        return self.widths(pattern, lambda size: size[1])

    def ratios(self, pattern: str) -> set[float]:
        return self.widths(pattern, lambda size: size[0] / size[1])


def _for_flux_only(layers: _Layers) -> tuple[Family, ...]:
    """What tools write that know no other family: XLabs' trainer and nunchaku's converter."""
    packed = r"^(single_)?transformer_blocks_\d+_(mlp_(context_)?fc[12]|qkv_proj)"
    return ("flux",) if "xlabs" in layers.schemes or layers.any(packed) else ()


def _dual_stream(layers: _Layers) -> tuple[Family, ...]:
    """Blocks over text and picture apart, then over both: FLUX.1 and relatives, in original or diffusers' names."""
    single = layers.numbers("single_blocks") | layers.numbers("single_transformer_blocks")
    if not (single or layers.numbers("double_blocks")) or layers.any(r"^joint_transformer_blocks_"):
        return ()
    if layers.any(r"_(img|txt)_(mlp_fc[12]|mod_linear)$|^single_blocks_\d+_modulation_linear$|token_refiner"):
        wide = _HUNYUAN_IMAGE_WIDTH in layers.inputs(r"_(qkv|q|k|v|proj|linear1|fc1|linear)$")
        return ("hunyuan-image",) if wide else ("hunyuan-video",)
    if layers.any(r"^distilled_guidance_layer|^nerf_"):
        return ("chroma",)
    # FLUX.2's gated MLP makes linear1 9 and mlp.0 6 times as wide as the stream; the others' are 7 and 4.
    gated = 9 in layers.ratios(r"^single_blocks_\d+_linear1$") or 6 in layers.ratios(r"_(img|txt)_mlp_0$")
    own = (
        r"stream_modulation|to_qkv_mlp_proj|_ff(_context)?_linear_(in|out)$|^single_transformer_blocks_\d+_attn_to_out$"
    )
    if gated or layers.any(own):
        return ("flux2",)
    double = layers.numbers("double_blocks") | layers.numbers("transformer_blocks")
    # More blocks than any of them has: the next of kin that has more than FLUX.1.
    return _narrowed(layers, ["flux", "flux2", "chroma", "hunyuan-video"], double, single) or ("hunyuan-video",)


def _joint(layers: _Layers) -> tuple[Family, ...]:
    """Only blocks over text and picture together: SD3, Qwen-Image; or FLUX.1's relatives without their single ones."""
    if layers.any(r"^joint_blocks_\d+_(x|context)_block_"):
        return ("sd3",)
    if layers.any(r"^transformer_blocks_\d+_(img|txt)_(mlp|mod)_"):
        return ("qwen-image",)
    if not layers.any(r"^transformer_blocks_\d+_(attn_(to_|add_)|ff_|norm1_)") or layers.any(r"_attn1_"):
        return ()
    if layers.any(r"_attn2_"):
        return ("sd3",)
    if layers.any(r"_ff(_context)?_linear_(in|out)$"):
        return ("flux2",)
    families: list[Family] = ["flux", "qwen-image", "flux2", "chroma", "hunyuan-video", "sd3"]
    if layers.any(r"_(ff|ff_context|norm1|norm1_context)_"):
        families.remove("qwen-image")
    return _narrowed(layers, families, layers.numbers("transformer_blocks"), set())


def _narrowed(layers: _Layers, families: list[Family], double: set[int], single: set[int]) -> tuple[Family, ...]:
    """Those of ``families`` that have such layers, so many blocks and such widths."""
    widths = layers.inputs(r"_attn_(qkv|q|k|v|proj|to_[qkv]|add_[qkv]_proj)$|_(linear1|mlp_0|proj_mlp|net_0_proj)$")
    if widths & set(_FLUX2_WIDTHS):
        return ("flux2",) if "flux2" in families else ()
    if widths & set(_SD3_WIDTHS):
        return ("sd3",) if "sd3" in families else ()
    if _HUNYUAN_IMAGE_WIDTH in widths:
        return ("hunyuan-image",)
    if _HUNYUAN_VIDEO_15_WIDTH in widths:
        return ("hunyuan-video",)
    if widths and _WIDTH not in widths:
        families = ["flux"]  # A small model for tests: nobody makes such of the others.
    out = _ruled_out(layers, bool(widths))
    if double == set(range(19)) or single == set(range(38)):
        out |= {"hunyuan-video", "qwen-image", "sd3"}  # All blocks of FLUX.1 and Chroma, and of no other.
    most = {family: _BLOCKS[family] for family in families if family not in out}
    if "flux2" in most and not widths:
        most["flux2"] = _FLUX2_BLOCKS
    last = (1 + max(double, default=-1), 1 + max(single, default=-1))
    return tuple(family for family, (first, second) in most.items() if last[0] <= first and last[1] <= second)


def _ruled_out(layers: _Layers, wide: bool) -> set[Family]:
    """The families that lack one of these layers; ``wide``: the width is known to be 3072."""
    out: set[Family] = {"sd3"} if wide else set()
    modulated = (
        r"_(img|txt)_mod_lin$|_modulation_lin$|_norm1(_context)?_linear$|^single_transformer_blocks_\d+_norm_linear$"
    )
    if layers.any(modulated + r"|^vector_in|^time_text_embed_text_embedder"):
        out |= {"chroma", "flux2"}
    if layers.any(r"^(time_in|guidance_in|time_text_embed)_"):
        out |= {"chroma"}
    if layers.any(r"_(img|txt)_mlp_[02]$|_mod_lin$|_modulation_lin$"):
        out |= {"hunyuan-video"}  # Its files say fc1, fc2 and linear.
    ungated = {4.0} & layers.ratios(r"_mlp_0$") or {7.0} & layers.ratios(r"_linear1$")
    if ungated or layers.any(r"_ff(_context)?_net_|^single_transformer_blocks_\d+_(attn_to_[qkv]|proj_mlp|proj_out)$"):
        out |= {"flux2"}
    if "clip_l" in layers.encoders:
        out |= {"chroma", "flux2", "qwen-image"}
    if "t5xxl" in layers.encoders:
        out |= {"flux2", "qwen-image", "hunyuan-video"}
    return out


def _unet(layers: _Layers) -> tuple[Family, ...]:
    """The U-Nets of Stable Diffusion, in diffusers' or the original block names."""
    if not layers.any(r"^(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_"):
        return ()
    for width in layers.inputs(r"_attn2(_processor)?_to_[kv]$"):
        if int(width) in _CONTEXT_WIDTH:
            return (_CONTEXT_WIDTH[int(width)],)
    if layers.any(r"_transformer_blocks_[1-9]|^up_blocks_0_attentions_|^output_blocks_[0-2]_1_(transformer|proj)"):
        return ("sdxl",)
    outer = r"^(down_blocks_0_attentions|up_blocks_3_attentions|input_blocks_[12]_1|output_blocks_(9|10|11)_1)_"
    return ("sd15", "sd2") if layers.any(outer) else ("sdxl", "sd15", "sd2")


def _single_stream(layers: _Layers) -> tuple[Family, ...]:
    """Transformers with one kind of block: Wan, Z-Image and Lumina 2."""
    if layers.any(r"^(vace_)?blocks_\d+_((self|cross)_attn_(q|k|v|o|k_img|v_img|norm_[qk])|ffn_[02])$"):
        return ("wan",)
    if layers.any(r"^(vace_)?blocks_\d+_(attn[12]_(to|add)_|ffn_net_)"):
        return ("wan",)
    if layers.any(r"^(layers|noise_refiner|context_refiner)_\d+_(attention_|feed_forward_w|adaLN_modulation)"):
        widths = layers.inputs(r"_(attention_(qkv|to_[qkv]|to_out_0|out)|w[13])$")
        if _LUMINA_WIDTH in widths:
            return ("lumina2",)
        return ("z-image",) if _Z_IMAGE_WIDTH in widths else ("z-image", "lumina2")
    return ()
