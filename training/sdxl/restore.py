"""Goes on from exported models: their files back into the networks that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import torch
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from ryla_nodes.models import shipped
from ryla_nodes.models.identity_files import IdentityFiles
from safetensors.torch import load_file
from torch import Tensor

from ..face_export import read_detector, read_recogniser
from .export import clip_g_of, files
from .networks import Painter
from .unet_names import published


def given(folder: Path) -> IdentityFiles:
    """The files that a training left in ``folder``, or those of the package's folder of models."""
    if (folder / "models").is_dir():
        return replace(files(folder / "models"), insightface=folder / "faces" / "insightface")
    return replace(files(folder), insightface=folder / shipped.insightface().relative_to(shipped.ROOT))


def prepare(source: IdentityFiles, folder: Path) -> None:
    """Let the tokenizer and the face networks in ``folder``, a training's, be those of ``source``."""
    faces, packs = folder / "faces", source.insightface / "models"
    faces.mkdir(parents=True, exist_ok=True)
    copyfile(source.checkpoint.with_name(f"{source.checkpoint.stem}.clip_l.tokenizer.json"), folder / "tokenizer.json")
    detector = read_detector(packs / "antelopev2" / "scrfd_10g_bnkps.onnx")
    networks = {
        "detector": detector,
        "detector-close": detector,
        "recogniser": read_recogniser(packs / "antelopev2" / "glintr100.onnx"),
        "scorer": read_recogniser(packs / "buffalo_l" / "w600k_r50.onnx"),
    }
    for name, network in networks.items():
        torch.save(network.state_dict(), faces / f"{name}.pt")


@torch.no_grad()
def restore(painter: Painter, vae: Autoencoder, source: IdentityFiles) -> None:
    """Give the networks the weights of ``source``. Raises ``KeyError`` for files of other networks."""
    checkpoint, adapter = load_file(source.checkpoint), load_file(source.adapter)
    _copy(published(painter.unet), _part(checkpoint, "model.diffusion_model."))
    painter.text.clip_l.load_state_dict(_part(checkpoint, "conditioner.embedders.0.transformer."))
    painter.text.clip_g.load_state_dict(
        clip_g_of(painter.text.clip_g, _part(checkpoint, "conditioner.embedders.1.model."))
    )
    vae.load_state_dict(_part(checkpoint, "first_stage_model."))
    painter.control.load_state_dict(_part(load_file(source.control_net), ""))
    _copy(painter.adapter.published(), _part(adapter, "image_proj."))
    _copy(painter.identity_layers(), _part(adapter, "ip_adapter."))


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.float() for name, value in weights.items() if name.startswith(prefix)}


def _copy(targets: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        target.copy_(weights[name].view_as(target))
