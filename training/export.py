"""Writes what was trained as files that ComfyUI and the embedded engine read: half precision, published key names."""

from __future__ import annotations

from pathlib import Path

import torch
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from ryla_nodes.loras.flux_modules import diffusers_parts
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from .lora import LoraLinear
from .stages import Painter

NAME = "ryla-paint"
LORA_METADATA = {
    "ss_network_module": "networks.lora_flux",
    "ss_base_model_version": "flux1",
    "modelspec.architecture": "flux-1-dev/lora",
    "modelspec.title": "mira",
    "modelspec.trigger_phrase": "mira",
}


def _half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()}


def _save(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_half(state), path, metadata)


def _files(painter: Painter, vae: Autoencoder) -> dict[str, nn.Module]:
    """The parts by their places in ComfyUI's folders."""
    return {
        f"diffusion_models/{NAME}-flux.safetensors": painter.flux,
        f"text_encoders/{NAME}-t5xxl.safetensors": painter.text.t5,
        f"text_encoders/{NAME}-clip_l.safetensors": painter.text.clip,
        f"vae/{NAME}-ae.safetensors": vae,
    }


def export_models(painter: Painter, vae: Autoencoder, t5: Tokenizer, clip: Tokenizer, folder: Path) -> None:
    """Write transformer, text encoders with their tokenizers and autoencoder in ComfyUI's folders under ``folder``."""
    for file, module in _files(painter, vae).items():
        _save(module.state_dict(), folder / file)
    t5.save(str(folder / "text_encoders" / f"{NAME}-t5xxl.tokenizer.json"))
    clip.save(str(folder / "text_encoders" / f"{NAME}-clip_l.tokenizer.json"))


def load_models(painter: Painter, vae: Autoencoder, folder: Path) -> None:
    """Read what ``export_models`` wrote."""
    for file, module in _files(painter, vae).items():
        module.load_state_dict(load_file(folder / file))


def _kohya(adapters: dict[str, LoraLinear]) -> dict[str, Tensor]:
    state = {}
    for name, adapter in adapters.items():
        prefix = f"lora_unet_{name.replace('.', '_')}"
        state[f"{prefix}.lora_down.weight"] = adapter.down
        state[f"{prefix}.lora_up.weight"] = adapter.up
        state[f"{prefix}.alpha"] = torch.tensor(float(adapter.down.shape[0]))
    return state


def _diffusers(adapters: dict[str, LoraLinear], hidden: int) -> dict[str, Tensor]:
    """Fused layers become one pair for each of diffusers' modules: the same down, that module's rows of up."""
    state = {}
    for module, adapter in adapters.items():
        for name, place in diffusers_parts(module, hidden).items():
            state[f"transformer.{name}.lora_A.weight"] = adapter.down.clone()
            state[f"transformer.{name}.lora_B.weight"] = place.rows(adapter.up.detach())
    return state


def export_lora(adapters: dict[str, LoraLinear], hidden: int, folder: Path) -> None:
    """Write the character's LoRA in kohya's and in diffusers' format."""
    _save(_kohya(adapters), folder / "loras" / "mira.safetensors", LORA_METADATA)
    _save(
        _diffusers(adapters, hidden),
        folder / "loras" / "mira-diffusers.safetensors",
        {"modelspec.trigger_phrase": "mira"},
    )
