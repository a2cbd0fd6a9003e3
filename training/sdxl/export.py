"""Writes the small SDXL, InstantID's adapter and its ControlNet under their published key names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from ryla_nodes.models.identity_files import IdentityFiles
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from .networks import Painter
from .unet_names import published

NAME = "ryla-paint"
EIGHT_BIT = torch.float8_e4m3fn


def files(models: Path) -> IdentityFiles:
    """Where the models go below ``models``."""
    return IdentityFiles(
        checkpoint=models / "checkpoints" / f"{NAME}-sdxl.safetensors",
        adapter=models / "instantid" / f"{NAME}-ip-adapter.safetensors",
        control_net=models / "controlnet" / f"{NAME}-instantid.safetensors",
        insightface=models / "insightface",
    )


def export_models(painter: Painter, vae: Autoencoder, tokenizer: Tokenizer, models: Path, small: bool = True) -> None:
    """Write all files below ``models``; with ``small`` the wide matrices of UNet and ControlNet as 8-bit floats."""
    made = files(models)
    narrow = EIGHT_BIT if small else torch.float16
    checkpoint = dict(_prefixed("model.diffusion_model.", published(painter.unet), narrow))
    checkpoint |= dict(_prefixed("conditioner.embedders.0.transformer.", painter.text.clip_l.state_dict()))
    checkpoint |= dict(_prefixed("conditioner.embedders.1.model.", open_clip(painter.text.clip_g)))
    checkpoint |= dict(_prefixed("first_stage_model.", vae.state_dict()))
    _save(checkpoint, made.checkpoint)
    _save(dict(_prefixed("", painter.control.state_dict(), narrow)), made.control_net)
    adapter = dict(_prefixed("image_proj.", painter.adapter.published()))
    _save(adapter | dict(_prefixed("ip_adapter.", painter.identity_layers(), narrow)), made.adapter)
    for part in ("clip_l", "clip_g"):
        tokenizer.save(str(made.checkpoint.with_name(f"{made.checkpoint.stem}.{part}.tokenizer.json")))


def _prefixed(prefix: str, state: dict[str, Tensor], wide: torch.dtype = torch.float16) -> Iterator[tuple[str, Tensor]]:
    """Tensors for a file: matrices and convolutions of ``wide``, the small rest in half precision."""
    for name, value in state.items():
        dtype = wide if value.dim() > 1 and value.numel() >= 2048 else torch.float16
        yield prefix + name, value.detach().to("cpu", torch.float32).to(dtype).contiguous()


def _save(state: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


_OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers.": "transformer.resblocks.",
    ".self_attn.": ".attn.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".fc1.": ".c_fc.",
    ".fc2.": ".c_proj.",
    "text_model.final_layer_norm.": "ln_final.",
}


def open_clip(clip: nn.Module) -> dict[str, Tensor]:
    """CLIP-G in OpenCLIP's layout: queries, keys and values in one matrix, the projection transposed."""
    renamed = {_in_open_clip(name): value for name, value in clip.state_dict().items()}
    out: dict[str, Tensor] = {}
    for name, value in renamed.items():
        if name == "text_projection.weight":
            out["text_projection"] = value.T
        elif ".q_proj." in name:
            key = name.replace(".q_proj.", ".{}_proj.")
            out[name.replace(".q_proj.", ".in_proj_")] = torch.cat([renamed[key.format(part)] for part in "qkv"])
        elif ".k_proj." not in name and ".v_proj." not in name:
            out[name] = value
    return out


def clip_g_of(clip: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``open_clip`` back: the state of ``clip``."""
    state: dict[str, Tensor] = {}
    for name in clip.state_dict():
        there = _in_open_clip(name)
        part = next((part for part in "qkv" if f".{part}_proj." in there), None)
        if name == "text_projection.weight":
            state[name] = weights["text_projection"].T
        elif part is None:
            state[name] = weights[there]
        else:
            state[name] = weights[there.replace(f".{part}_proj.", ".in_proj_")].chunk(3)["qkv".index(part)]
    return state


def _in_open_clip(name: str) -> str:
    for ours, theirs in _OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return name
