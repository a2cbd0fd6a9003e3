"""Say what a model file is, from its keys and shapes only: names lie. Files that other loaders read are named, too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..files import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES
from .headers import Header, check_plain, read_header, read_pickle_header


class FileKind(str, Enum):
    """What a file holds. The value is stable (it appears in ``--json``); ``description`` is for people."""

    FLUX_TRANSFORMER = "flux_transformer"
    FLUX_ALL_IN_ONE = "flux_all_in_one"
    FLUX_OTHER = "flux_other"
    SDXL_CHECKPOINT = "sdxl_checkpoint"
    SD15_CHECKPOINT = "sd15_checkpoint"
    T5XXL = "t5xxl"
    CLIP_L = "clip_l"
    CLIP_G = "clip_g"
    VAE_FLUX = "vae_flux"
    VAE_SDXL = "vae_sdxl"
    CONTROLNET_SDXL_INSTANTID = "controlnet_sdxl_instantid"
    CONTROLNET_OTHER = "controlnet_other"
    INSTANTID_ADAPTER = "instantid_adapter"
    LORA = "lora"
    QUANTISED = "quantised"
    DIFFUSERS = "diffusers"
    PART = "part"
    UNKNOWN = "unknown"

    @property
    def description(self) -> str:
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    FileKind.FLUX_TRANSFORMER: "a FLUX.1 Dev transformer without text encoders and VAE",
    FileKind.FLUX_ALL_IN_ONE: "a FLUX.1 Dev all-in-one checkpoint",
    FileKind.FLUX_OTHER: "a relative of FLUX.1 Dev (schnell, Fill, Chroma, Flux 2 ...)",
    FileKind.SDXL_CHECKPOINT: "an SDXL checkpoint",
    FileKind.SD15_CHECKPOINT: "a Stable Diffusion 1.5 checkpoint",
    FileKind.T5XXL: "a T5 v1.1 text encoder",
    FileKind.CLIP_L: "a CLIP-L text encoder",
    FileKind.CLIP_G: "a CLIP-G text encoder",
    FileKind.VAE_FLUX: "a 16-channel VAE (FLUX.1)",
    FileKind.VAE_SDXL: "a 4-channel VAE (SDXL, SD 1.5)",
    FileKind.CONTROLNET_SDXL_INSTANTID: "an SDXL ControlNet in the diffusers layout (InstantID's)",
    FileKind.CONTROLNET_OTHER: "a ControlNet of another family",
    FileKind.INSTANTID_ADAPTER: "an InstantID adapter",
    FileKind.LORA: "a LoRA",
    FileKind.QUANTISED: "a quantised model, which needs another loader",
    FileKind.DIFFUSERS: "a model in diffusers' layout",
    FileKind.PART: "a part of a model in diffusers' folder layout",
    FileKind.UNKNOWN: "nothing that is known here",
}

_UNET_PREFIXES = ("model.diffusion_model.", "")
_LORA_KEY = re.compile(
    r"(\.lora_(up|down|A|B|mid)(\.|$)|\.lora\.(up|down)\.|_lora\.(up|down)\.|_lora_[AB]\.|\.lora_(embedding_)?[AB]"
    r"|\.hada_w\d|\.lokr_w\d|\.oft_blocks|\.(diff|set_weight|dora_scale|glora)(\.|$))"
)
_SDXL_ADM = 2816  # Pooled CLIP-G (1280) and six size numbers of 256 each.
_FACE_EMBEDDING = 512  # ArcFace's width, InstantID's input.


def examine(path: Path, suffix: str = "") -> FileKind:
    """What ``path`` holds by its header; UNKNOWN for formats that carry no model family (ONNX, JSON, text).

    ``suffix`` says the format of a file that does not have its own name yet.

    Raises:
        RylaError: ``empty_file``, ``truncated_file``, ``not_safetensors``, ``unsafe_pickle``, ``unreadable_file``.
    """
    suffix = (suffix or path.suffix).lower()
    if suffix in SAFETENSORS_SUFFIXES:
        return identify(read_header(path))
    if suffix in PICKLE_SUFFIXES:
        return identify(read_pickle_header(path))
    check_plain(path, suffix)
    return FileKind.UNKNOWN


def identify(header: Header) -> FileKind:
    """The kind of a file, by ComfyUI's own detection keys; small models with the same keys count as the same kind."""
    if shard_of(header.path) is not None:
        return FileKind.PART
    if quantisation(header) is not None:
        return FileKind.QUANTISED
    if any(_LORA_KEY.search(key) for key in header.tensors):
        return FileKind.LORA
    for detect in (_adapter, _controlnet, _diffusion_model, _text_encoder, _vae):
        kind = detect(header)
        if kind is not None:
            return kind
    return FileKind.DIFFUSERS if _is_diffusers(header) else FileKind.UNKNOWN


def describe(path: Path, kind: FileKind) -> str:
    """What a file is, for people: of a foreign layout its name, the model behind it and what reads it."""
    if kind is FileKind.PART:
        number, count = shard_of(path) or (1, 1)
        return f"part {number} of {count} of a model in diffusers' folder layout, which ComfyUI does not read"
    if kind in (FileKind.QUANTISED, FileKind.DIFFUSERS):
        header = read_header(path)
        found = quantisation(header)
        if found is None:
            return f"{_base_of(header)} in diffusers' layout"
        return f"{_base_of(header)} in {found.name}, which needs another loader ({found.loader})"
    return kind.description


def _starts(header: Header, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in header.tensors)


def _adapter(header: Header) -> FileKind | None:
    width = header.shape("image_proj.proj_in.weight")
    attention = header.shape("ip_adapter.1.to_k_ip.weight")
    if width and attention and "image_proj.latents" in header.tensors and width[1] == _FACE_EMBEDDING:
        return FileKind.INSTANTID_ADAPTER
    return None


def _controlnet(header: Header) -> FileKind | None:
    if "controlnet_cond_embedding.conv_in.weight" in header.tensors:
        added = header.shape("add_embedding.linear_1.weight")
        return FileKind.CONTROLNET_SDXL_INSTANTID if added and added[1] == _SDXL_ADM else FileKind.CONTROLNET_OTHER
    other = ("controlnet_blocks.", "controlnet_x_embedder.", "control_model.", "zero_convs.0.0.")
    return FileKind.CONTROLNET_OTHER if any(_starts(header, prefix) for prefix in other) else None


def _diffusion_model(header: Header) -> FileKind | None:
    for prefix in _UNET_PREFIXES:
        # Published files say "scale"; files that a recent ComfyUI saved say "weight".
        norm = f"{prefix}double_blocks.0.img_attn.norm.key_norm."
        if f"{norm}scale" in header.tensors or f"{norm}weight" in header.tensors:
            return _flux(header, prefix)
        if f"{prefix}input_blocks.0.0.weight" in header.tensors:
            return _unet(header, prefix)
    return None


def _flux(header: Header, prefix: str) -> FileKind:
    patch = header.shape(f"{prefix}img_in.weight")
    guided = f"{prefix}guidance_in.in_layer.weight" in header.tensors
    vector = f"{prefix}vector_in.in_layer.weight" in header.tensors
    if not (patch and guided and vector and patch[1] == 16 * 2 * 2):
        return FileKind.FLUX_OTHER
    parts = ("text_encoders.clip_l.", "text_encoders.t5xxl.", "vae.")
    complete = all(_starts(header, part) for part in parts)
    return FileKind.FLUX_ALL_IN_ONE if complete else FileKind.FLUX_TRANSFORMER


def _unet(header: Header, prefix: str) -> FileKind:
    latent = header.shape(f"{prefix}input_blocks.0.0.weight")
    if not prefix or latent is None or latent[1] != 4 or not _starts(header, "first_stage_model."):
        return FileKind.UNKNOWN
    added = header.shape(f"{prefix}label_emb.0.0.weight")
    if added and added[1] == _SDXL_ADM and _starts(header, "conditioner.embedders.1."):
        return FileKind.SDXL_CHECKPOINT
    if added is None and _starts(header, "cond_stage_model.transformer."):
        return FileKind.SD15_CHECKPOINT
    return FileKind.UNKNOWN


def _text_encoder(header: Header) -> FileKind | None:
    layer = "text_model.encoder.layers.{}.mlp.fc1.weight"
    if layer.format(30) in header.tensors:
        return FileKind.CLIP_G
    if layer.format(0) in header.tensors:
        return FileKind.UNKNOWN if layer.format(22) in header.tensors else FileKind.CLIP_L
    if "encoder.block.0.layer.1.DenseReluDense.wi_1.weight" in header.tensors:
        return _t5(header)
    return None


def _t5(header: Header) -> FileKind:
    # UMT5 (Wan's encoder) has the same widths but a relative bias in every block; T5 v1.1 XL is 2048 wide, ByT5 384.
    per_block_bias = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in header.tensors
    key = header.shape("encoder.block.0.layer.0.SelfAttention.k.weight")
    feed = header.shape("encoder.block.23.layer.1.DenseReluDense.wi_1.weight")
    other_size = (feed is not None and feed[0] != 10240) or (key is not None and key[0] == 384)
    return FileKind.UNKNOWN if per_block_bias or other_size else FileKind.T5XXL


def _vae(header: Header) -> FileKind | None:
    for prefix in ("", "first_stage_model.", "vae."):
        latent = header.shape(f"{prefix}decoder.conv_in.weight")
        if latent is None or len(latent) != 4 or f"{prefix}encoder.conv_in.weight" not in header.tensors:
            continue
        return {16: FileKind.VAE_FLUX, 4: FileKind.VAE_SDXL}.get(latent[1], FileKind.UNKNOWN)
    return None


_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


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


_ANY_QUANTISATION = re.compile("|".join(pattern for pattern, _ in _QUANTISATIONS))


def quantisation(header: Header) -> Quantisation | None:
    """The foreign format of the weights; None for whole weights and for what ComfyUI itself reads."""
    telling = next((key for key in header.tensors if _ANY_QUANTISATION.search(key)), None)
    if telling is not None:
        return next(found for pattern, found in _QUANTISATIONS if re.search(pattern, telling))
    packed = (key for key, (dtype, _) in header.tensors.items() if dtype == "U32")
    scaled = any(f"{key.removesuffix('weight')}scales" in header.tensors for key in packed)
    return Quantisation("MLX' format", "MLX") if scaled else None


def shard_of(path: Path) -> tuple[int, int] | None:
    """The number of a part of a sharded model and how many there are, by its name; None for a file that is whole."""
    match = _SHARD.search(path.stem)
    return (int(match[1]), int(match[2])) if match and int(match[2]) > 1 else None


def _is_diffusers(header: Header) -> bool:
    """Whether the names are those of a model in diffusers' layout."""
    keys = ("transformer_blocks.0.attn.to_q.weight", "down_blocks.0.resnets.0.conv1.weight")
    return any(key in header.tensors for key in keys)


def _base_of(header: Header) -> str:
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
