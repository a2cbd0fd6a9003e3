"""Model files that other loaders read, each told by its name: quantised ones, diffusers' layout, parts of a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .headers import Header

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclass(frozen=True)
class Quantisation:
    """A format of quantised weights, and what reads it."""

    name: str
    loader: str


_DIFFUSERS = "diffusers"
# By a key that no other format has. ComfyUI's own (scaled_fp8, comfy_quant) are not foreign.
_QUANTISATIONS = (
    (r"\.quant_state\.bitsandbytes__nf4$", Quantisation("bitsandbytes' NF4", "ComfyUI_bitsandbytes_NF4")),
    (r"\.quant_state\.bitsandbytes__fp4$", Quantisation("bitsandbytes' FP4", "ComfyUI_bitsandbytes_NF4")),
    (r"\.SCB$", Quantisation("bitsandbytes' INT8", _DIFFUSERS)),
    (r"\.(wscales|wtscale|smooth_factor)$", Quantisation("nunchaku's SVDQuant", "ComfyUI-nunchaku")),
    (r"\.qzeros$", Quantisation("GPTQ's or AWQ's format", _DIFFUSERS)),
    (r"\._data$", Quantisation("optimum-quanto's format", _DIFFUSERS)),
    (r"\.W_q$", Quantisation("HQQ's format", _DIFFUSERS)),
    (r"(_weight_qdata|\.qdata|\.tensor_impl)$", Quantisation("torchao's format", _DIFFUSERS)),
    (r"\.(zero_point|svd_up)$", Quantisation("SDNQ's format", "SD.Next or diffusers")),
)


_ANY = re.compile("|".join(pattern for pattern, _ in _QUANTISATIONS))


def quantisation(header: Header) -> Quantisation | None:
    """The foreign format of the weights; None for whole weights and for what ComfyUI itself reads."""
    telling = next((key for key in header.tensors if _ANY.search(key)), None)
    if telling is not None:
        return next(found for pattern, found in _QUANTISATIONS if re.search(pattern, telling))
    packed = (key for key, (dtype, _) in header.tensors.items() if dtype == "U32")
    scaled = any(f"{key.removesuffix('weight')}scales" in header.tensors for key in packed)
    return Quantisation("MLX' format", "MLX") if scaled else None


def part(path: Path) -> tuple[int, int] | None:
    """The number of a part of a sharded model and how many there are, by its name; None for a file that is whole."""
    match = _PART.search(path.stem)
    return (int(match[1]), int(match[2])) if match and int(match[2]) > 1 else None


def is_diffusers(header: Header) -> bool:
    """Whether the names are those of a model in diffusers' layout."""
    keys = ("transformer_blocks.0.attn.to_q.weight", "down_blocks.0.resnets.0.conv1.weight")
    return any(key in header.tensors for key in keys)


def base(header: Header) -> str:
    """The model behind a foreign layout, as far as its names tell."""
    names = "\n".join(header.tensors)
    if re.search(r"(^|\.)(double_blocks|single_blocks|single_transformer_blocks)\.\d", names, re.MULTILINE):
        guided = re.search(r"(^|\.)(guidance_in|guidance_embedder)\.", names, re.MULTILINE)
        return "FLUX.1 Dev" if guided else "a relative of FLUX.1 Dev"
    if re.search(r"(^|\.)(input_blocks|down_blocks)\.\d", names, re.MULTILINE):
        return "a Stable Diffusion U-Net"
    if "DenseReluDense" in names:
        return "a T5 text encoder"
    return "a model"
