"""SDXL for the embedded engine, from ComfyUI's files: UNet and ControlNet are diffusers'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....errors import RylaError
from ....models.folders import ModelFolders
from ....models.headers import read_header
from ....models.identify import FileKind, identify
from ... import embedded
from . import text, tokenizers, vae
from .instantid import install
from .sdxl_model import ControlNet, SdxlModel
from .text import Conditioning, TextEncoder, Tokens
from .text_networks import ClipShape, ClipText
from .weights import Network, Placement, WeightFile, fill

HEAD_WIDTH = 64
ADDED_WIDTH = 256
LEVELS = 3
_UNET_PREFIX = "model.diffusion_model."
_CLIP_L_PREFIX = "conditioner.embedders.0.transformer."
_CLIP_G_PREFIX = "conditioner.embedders.1.model."
_VAE_PREFIX = "first_stage_model."


@dataclass(frozen=True)
class SdxlText:
    """What the engine calls a CLIP: CLIP-L and CLIP-G side by side for the context, CLIP-G for the pooled vector."""

    clip_l: TextEncoder
    clip_g: TextEncoder

    def tokenize(self, prompt: str) -> Tokens:
        """The prompt's weighted tokens for each encoder."""
        return {"l": self.clip_l.tokenizer.tokenize(prompt), "g": self.clip_g.tokenizer.tokenize(prompt)}

    def encode(self, tokens: Tokens, **values: Any) -> Conditioning:
        """A conditioning: ``[[context [1, T, D], {"pooled_output": [1, D'], **values}]]``."""
        narrow, _ = self.clip_l.encode(tokens["l"])
        wide, pooled = self.clip_g.encode(tokens["g"])
        length = min(narrow.shape[1], wide.shape[1])
        context = torch.cat((narrow[:, :length], wide[:, :length]), dim=-1)
        return [[context, {"pooled_output": pooled, **values}]]


def require() -> None:
    """Check that diffusers is there. Raises ``embedded_not_installed``."""
    embedded.require("SDXL on the embedded engine", "diffusers", extra="identity")


def load_checkpoint(
    path: Path, folders: ModelFolders, placement: Placement
) -> tuple[SdxlModel, SdxlText, vae.PictureVae]:
    """Load an SDXL checkpoint.

    Raises:
        RylaError: ``embedded_not_installed`` without diffusers, ``incomplete_weights``, ``missing_tokenizer``,
            ``wrong_tokenizer``.
    """
    require()
    file = WeightFile.open(path)
    names = (path.with_name(f"{path.stem}.{part}{path.suffix}") for part in ("clip_l", "clip_g"))
    # SDXL reads both encoders one layer before the end.
    clip_l = text.load_clip_l(file.part(_CLIP_L_PREFIX), next(names), folders, placement, penultimate=True)
    clip = SdxlText(clip_l, _load_clip_g(file.part(_CLIP_G_PREFIX), next(names), folders, placement))
    return _load_unet(file, placement), clip, vae.load(file.part(_VAE_PREFIX), placement)


def load_control_net(path: Path, placement: Placement) -> ControlNet:
    """Load an SDXL ControlNet in diffusers' format.

    Raises:
        RylaError: ``embedded_not_installed`` without diffusers, ``wrong_controlnet``, ``incomplete_weights``.
    """
    require()
    from diffusers.models.controlnets.controlnet import ControlNetModel

    kind = identify(read_header(path))
    if kind is not FileKind.CONTROLNET_SDXL_INSTANTID:
        raise RylaError("wrong_controlnet", f"{path} is {kind.description}, not an SDXL ControlNet.")
    file = WeightFile.open(path)
    first = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    width, added = file.shape(first)[1], file.shape("add_embedding.linear_1.weight")[1]
    widths = [file.shape(f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(LEVELS)]
    blocks = [f"controlnet_cond_embedding.{name}.weight" for name in ("conv_in", *(f"blocks.{i}" for i in (1, 3, 5)))]
    with torch.device("meta"):
        module = ControlNetModel(
            **shared_config(widths, width, added),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            conditioning_embedding_out_channels=tuple(file.shape(name)[0] for name in blocks),
        )
    weights = ((name, tensor.to(placement.device, placement.dtype)) for name, tensor in file.tensors(placement.device))
    filled: Any = fill(module, weights, str(path))
    # diffusers would embed the hint at every step.
    hints, filled.controlnet_cond_embedding = filled.controlnet_cond_embedding, nn.Identity()
    return ControlNet(Network(filled), hints, placement, width, added)


def _load_unet(file: WeightFile, placement: Placement) -> SdxlModel:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    inside = file.part(_UNET_PREFIX)
    width = inside.shape("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight")[1]
    added = inside.shape("label_emb.0.0.weight")[1]
    # Of each level the first block: two blocks and a step down make three.
    widths = [inside.shape(f"input_blocks.{3 * level + 1}.0.out_layers.3.weight")[0] for level in range(LEVELS)]
    config = shared_config(widths, width, added)
    config["down_block_types"] = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    config["up_block_types"] = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    with torch.device("meta"):
        module = UNet2DConditionModel(**config)
    converted = convert_ldm_unet_checkpoint(
        {_UNET_PREFIX + name: t for name, t in inside.tensors(placement.device)}, config
    )
    weights = ((name, tensor.to(placement.device, placement.dtype)) for name, tensor in converted.items())
    filled = fill(module, weights, str(file.path))
    return SdxlModel(Network(filled), placement, added, install(filled))


def shared_config(widths: Sequence[int], context: int, added: int) -> dict[str, Any]:
    """What UNet and ControlNet of SDXL have in common; ``widths`` of the levels (320, 640 and 1280 when published)."""
    return {
        "in_channels": 4,
        "block_out_channels": tuple(widths),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": context,
        # diffusers calls the number of heads so.
        "attention_head_dim": tuple(max(1, width // HEAD_WIDTH) for width in widths),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": ADDED_WIDTH,
        "projection_class_embeddings_input_dim": added,
    }


def _load_clip_g(file: WeightFile, tokenizer_of: Path, folders: ModelFolders, placement: Placement) -> TextEncoder:
    vocabulary, width = file.shape("token_embedding.weight")
    # The same tokens as CLIP-L's; only the padding differs.
    tokenizer = replace(tokenizers.clip_l(tokenizer_of, vocabulary, folders), pad=0)
    shape = ClipShape(
        vocabulary=vocabulary,
        positions=file.shape("positional_embedding")[0],
        width=width,
        inner=file.shape("transformer.resblocks.0.mlp.c_fc.weight")[0],
        layers=file.count("transformer.resblocks.{}."),
        heads=width // HEAD_WIDTH,
        end=tokenizer.end,
        projected=file.shape("text_projection")[1],
        penultimate=True,
        quick=False,
    )
    with torch.device("meta"):
        module = ClipText(shape)
    published = (pair for name, tensor in file.tensors(placement.device) for pair in from_open_clip(name, tensor))
    return text.filled(module, published, file.path, tokenizer, placement)


_OPEN_CLIP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "transformer.resblocks.": "text_model.encoder.layers.",
    ".attn.": ".self_attn.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".c_fc.": ".fc1.",
    ".c_proj.": ".fc2.",
    "ln_final.": "text_model.final_layer_norm.",
}


def from_open_clip(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor of OpenCLIP's layout under the names of the published CLIP."""
    for theirs, ours in _OPEN_CLIP.items():
        name = name.replace(theirs, ours)
    if name == "text_projection":
        yield f"{name}.weight", tensor.T.contiguous()
    elif ".in_proj_" in name:
        for part, rows in zip("qkv", tensor.chunk(3), strict=True):
            yield name.replace("in_proj_", f"{part}_proj."), rows.contiguous()
    else:
        yield name, tensor
