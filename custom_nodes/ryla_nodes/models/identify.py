"""Say what a model file is, from its keys and shapes only: names lie."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from ..files import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES
from . import foreign
from .contents import check_plain, read_pickle_header
from .headers import Header, read_header


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
    if foreign.part(header.path) is not None:
        return FileKind.PART
    if foreign.quantisation(header) is not None:
        return FileKind.QUANTISED
    if any(_LORA_KEY.search(key) for key in header.tensors):
        return FileKind.LORA
    for detect in (_adapter, _controlnet, _diffusion_model, _text_encoder, _vae):
        kind = detect(header)
        if kind is not None:
            return kind
    return FileKind.DIFFUSERS if foreign.is_diffusers(header) else FileKind.UNKNOWN


def describe(path: Path, kind: FileKind) -> str:
    """What a file is, for people: of a foreign layout its name, the model behind it and what reads it."""
    if kind is FileKind.PART:
        number, count = foreign.part(path) or (1, 1)
        return f"part {number} of {count} of a model in diffusers' folder layout, which ComfyUI does not read"
    if kind in (FileKind.QUANTISED, FileKind.DIFFUSERS):
        header = read_header(path)
        found = foreign.quantisation(header)
        if found is None:
            return f"{foreign.base(header)} in diffusers' layout"
        return f"{foreign.base(header)} in {found.name}, which needs another loader ({found.loader})"
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
