"""The small Flux in a test: loaded, run, and written in the forms that its files come in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from shutil import copy2, copytree
from typing import Any

import tiny_flux
import torch
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.embedded.inference import sampling, tokenizers
from ryla_nodes.engines.embedded.inference.flux import FluxModel
from ryla_nodes.engines.embedded.inference.sampling import Job
from ryla_nodes.engines.embedded.inference.text import FluxText
from ryla_nodes.engines.embedded.inference.vae import PictureVae
from ryla_nodes.loras.flux_modules import diffusers_parts
from ryla_nodes.models.flux_files import FluxFiles
from ryla_nodes.models.folders import ModelFolders
from safetensors.torch import load_file, save_file

Loaded = tuple[FluxModel, FluxText, PictureVae]
Tensors = dict[str, torch.Tensor]

PARTS = {"text_encoders.clip_l.transformer.": "clip_l", "text_encoders.t5xxl.transformer.": "t5xxl", "vae.": "vae"}
# A few layers of each kind, with (out, in) widths in units of the transformer's; the fused ones among them.
LAYERS = {
    "double_blocks.0.img_attn.qkv": (3, 1),
    "double_blocks.1.txt_attn.qkv": (3, 1),
    "double_blocks.0.img_mlp.0": (4, 1),
    "double_blocks.1.txt_mod.lin": (6, 1),
    "single_blocks.0.linear1": (7, 1),
    "single_blocks.3.linear2": (1, 5),
    "final_layer.adaLN_modulation.1": (2, 1),
}
CLIP_LAYERS = {
    "text_model.encoder.layers.0.mlp.fc1": (512, 128),
    "text_model.encoder.layers.1.self_attn.q_proj": (128, 128),
}
T5_LAYERS = {"encoder.block.1.layer.0.SelfAttention.o": (128, 128)}


def engine(home: Path) -> EmbeddedEngine:
    """The embedded engine's host without any real model folder."""
    return EmbeddedEngine(home, ModelFolders({}))


def copied(home: Path, target: Path) -> Path:
    """A home with the same models to write further files into; the models themselves are shared on disk."""
    copytree(home / "models", target / "models", copy_function=os.link)
    return target


def load(home: Path) -> Loaded:
    """The small Flux, loaded."""
    return engine(home).load_flux(tiny_flux.files(home / "models"), "default")


def latent(
    flux: Loaded, prompt: str = "a red cat", size: tuple[int, int] = (64, 64), guidance: float = 3.5, **job: Any
) -> torch.Tensor:
    """The latent of a picture of ``size`` (width, height) after a few steps: [1, 16, h, w]."""
    model, clip, _ = flux
    settings = {"seed": 1, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", **job}
    empty = {"samples": torch.zeros(1, 16, size[1] // 8, size[0] // 8)}
    positive, negative = clip.encode(clip.tokenize(prompt), guidance=guidance), clip.encode(clip.tokenize("blurry"))
    return sampling.sample(model, Job(**settings), positive, negative, empty, lambda done, steps: None)["samples"]


def all_in_one(files: FluxFiles, path: Path, transformer_dtype: torch.dtype | None = None) -> Path:
    """One checkpoint of the four files, with the tokenizers beside it under the names of its parts."""
    tensors = _prefixed("model.diffusion_model.", load_file(files.transformer), transformer_dtype)
    for prefix, part in PARTS.items():
        tensors |= _prefixed(prefix, load_file(getattr(files, part)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    for part in ("clip_l", "t5xxl"):
        target = tokenizers.beside(path.with_name(f"{path.stem}.{part}{path.suffix}"))
        copy2(tokenizers.beside(getattr(files, part)), target)
    return path


def _prefixed(prefix: str, tensors: Tensors, dtype: torch.dtype | None = None) -> Tensors:
    return {prefix + name: tensor if dtype is None else tensor.to(dtype) for name, tensor in tensors.items()}


def scaled_fp8(tensors: Tensors, *, newer: bool = False) -> Tensors:
    """Matrices as 8-bit floats with a scale each, in the older or the newer key names of ComfyUI's files."""
    out: Tensors = {} if newer else {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind != "weight" or tensor.ndim != 2 or "shared" in name or "bias" in name:
            out[name] = tensor
            continue
        scale = tensor.float().abs().max() / 448
        out[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        out[f"{module}.weight_scale" if newer else f"{module}.scale_weight"] = scale.reshape(())
        if newer:
            out[f"{module}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    return out


def factors(
    layers: Mapping[str, tuple[int, int]], unit: int, rank: int, size: float
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A LoRA's (up, down) per layer, deterministic; their product's entries have deviation ``size``."""
    generator = torch.Generator().manual_seed(7)
    deviation = (size / rank**0.5) ** 0.5
    return {
        name: (
            deviation * torch.randn(out * unit, rank, generator=generator),
            deviation * torch.randn(rank, source * unit, generator=generator),
        )
        for name, (out, source) in layers.items()
    }


def kohya(path: Path, *, rank: int = 4, alpha: float = 2.0, size: float = 0.05, clip: bool = False) -> Path:
    """A LoRA as kohya's scripts write it: BFL's names, fused layers, alpha."""
    layers = {f"lora_unet_{name.replace('.', '_')}": pair for name, pair in factors(LAYERS, 256, rank, size).items()}
    if clip:
        for prefix, named in (("lora_te1_", CLIP_LAYERS), ("lora_te2_", T5_LAYERS)):
            layers |= {prefix + name.replace(".", "_"): pair for name, pair in factors(named, 1, rank, size).items()}
    tensors: Tensors = {}
    for name, (up, down) in layers.items():
        tensors |= {
            f"{name}.lora_up.weight": up,
            f"{name}.lora_down.weight": down,
            f"{name}.alpha": torch.tensor(alpha),
        }
    return _saved(path, tensors)


def diffusers(path: Path, *, rank: int = 4, alpha: float = 2.0, size: float = 0.05) -> Path:
    """The same LoRA in diffusers' names, its fused layers split, alpha multiplied in (the format has none)."""
    tensors: Tensors = {}
    for module, (up, down) in factors(LAYERS, 256, rank, size).items():
        for name, place in diffusers_parts(module, 256).items():
            tensors[f"transformer.{name}.lora_B.weight"] = place.rows(up) * (alpha / rank)
            tensors[f"transformer.{name}.lora_A.weight"] = down
    return _saved(path, tensors)


def ai_toolkit(path: Path, *, rank: int = 4, alpha: float = 2.0, size: float = 0.05) -> Path:
    """The same LoRA in BFL's names with lora_A and lora_B, alpha multiplied in."""
    tensors: Tensors = {}
    for name, (up, down) in factors(LAYERS, 256, rank, size).items():
        tensors[f"diffusion_model.{name}.lora_B.weight"] = up * (alpha / rank)
        tensors[f"diffusion_model.{name}.lora_A.weight"] = down
    return _saved(path, tensors)


def in_diffusers_names(tensors: Tensors, hidden: int) -> Tensors:
    """The transformer's weights as diffusers' FluxTransformer2DModel calls and splits them."""
    split: Tensors = {}
    for key, tensor in tensors.items():
        module, _, kind = key.rpartition(".")
        for name, place in diffusers_parts(module, hidden).items():
            split[f"{name}.{'weight' if kind == 'scale' else kind}"] = place.rows(tensor)
    return split


def _saved(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def psnr(left: Iterable[Any], right: Iterable[Any]) -> float:
    """Peak signal to noise ratio of two pictures of 0..255, in dB; 100 when they are equal."""
    import numpy as np

    error = float(np.mean((np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64)) ** 2))
    return 100.0 if error == 0 else 10 * float(np.log10(255**2 / error))
