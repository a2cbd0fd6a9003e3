"""Pictures from the models in training, for sample sheets and for judging: Euler steps, the engine's noise levels."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from ryla_nodes.engines.embedded.inference.flux import LATENT
from ryla_nodes.engines.embedded.inference.schedules import FlowSampling, sigmas
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from tokenizers import Tokenizer
from torch import Tensor

from .bank import shrink
from .captions import caption
from .checker import read_face, read_shape
from .scenes import Scene, ShapeScene, random_face, random_shape
from .stages import Painter
from .text import CLIP_LENGTH, T5_LENGTH, token_ids

Pictures = NDArray[np.uint8]
"""Bytes (N, H, W, 3)."""


@torch.no_grad()
def paint(
    painter: Painter,
    vae: Autoencoder,
    tokenizers: tuple[Tokenizer, Tokenizer],
    prompts: Sequence[str],
    size: int,
    *,
    guidance: float = 3.5,
    steps: int,
    seed: int = 0,
) -> Pictures:
    """Paint ``prompts``, in full precision as the engine does: bytes (N, size, size, 3)."""
    device = next(painter.parameters()).device
    t5_ids = token_ids(tokenizers[0], prompts, T5_LENGTH).to(device)
    clip_ids = token_ids(tokenizers[1], prompts, CLIP_LENGTH).to(device)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(prompts), 16, size // 8, size // 8, generator=generator).to(device)
    level = sigmas(FlowSampling(), "simple", steps, 1.0)
    context, pooled = painter.text(t5_ids, clip_ids)
    strength = torch.full((len(prompts),), guidance, device=device)
    for now, then in pairwise(level):
        time = torch.full((len(prompts),), float(now), device=device)
        x = x + (float(then) - float(now)) * painter.flux(x, time, context, pooled, strength).float()
    rgb = torch.cat([vae.decode(part).float() for part in LATENT.to_vae(x).split(16)])
    return _bytes(rgb)


@torch.no_grad()
def round_trip(vae: Autoencoder, drawn: Tensor, size: int, cast: Callable[[], torch.autocast]) -> Pictures:
    """Drawings (N, 3, S, S) in bytes at ``size``, encoded and decoded: bytes (N, size, size, 3)."""
    with cast():
        return _bytes(torch.cat([vae.decode(vae.encode(part)[0]).float() for part in shrink(drawn, size).split(16)]))


def _bytes(rgb: Tensor) -> Pictures:
    return ((rgb.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def held_out(count: int, seed: int, faces: bool) -> list[tuple[Scene, str]]:
    """Held-out scenes with a complete caption each."""
    rng = random.Random(seed)
    found: list[tuple[Scene, str]] = []
    while len(found) < count:
        scene: Scene = random_face(rng) if faces else random_shape(rng)
        if scene.held_out:
            found.append((scene, caption(scene, rng, complete=True)))
    return found


def score(pairs: Sequence[tuple[Scene, str]], pictures: Pictures) -> dict[str, float]:
    """Shares of pictures in which each attribute is as asked for."""
    hits: dict[str, int] = {}
    for (scene, _), picture in zip(pairs, pictures, strict=True):
        for name, right in judge(scene, picture).items():
            hits[name] = hits.get(name, 0) + right
    return {name: count / len(pairs) for name, count in hits.items()}


def judge(scene: Scene, picture: Pictures) -> dict[str, bool]:
    """Which attributes of ``scene`` the picture shows; ``all`` when every one of them."""
    if isinstance(scene, ShapeScene):
        shape = read_shape(picture)
        right = {
            "shape": shape.shape == scene.shape,
            "colour": shape.colour == scene.colour,
            "position": (shape.row, shape.column) == (scene.row, scene.column),
        }
    else:
        face = read_face(picture)
        right = {
            "skin": face.skin == scene.skin,
            "hair": face.hair == scene.hair,
            "hair_colour": face.hair_colour == scene.hair_colour or (scene.hair == "bald" and not scene.beard),
            "glasses": face.glasses == scene.glasses,
            "beard": face.beard == scene.beard,
            "hat": face.hat == scene.hat,
        }
    return {**right, "all": all(right.values())}


def sheet(pictures: Pictures, columns: int, path: Path) -> None:
    """Save pictures (N, H, W, 3) as one grid."""
    rows = [np.concatenate(list(pictures[i : i + columns]), axis=1) for i in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)
