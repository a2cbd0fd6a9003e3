"""The drawn data set: scenes on the device as bytes, their captions as token ids, and their latents."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from ryla_nodes.engines.embedded.inference.flux import LATENT
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from tokenizers import Tokenizer
from torch import Tensor

from .captions import caption, mira_caption
from .plan import Plan
from .scenes import FACE_BACKGROUNDS, MIRA, FaceScene, Scene, random_scene
from .text import CLIP_LENGTH, T5_LENGTH, token_ids

ENCODED_TOGETHER = 2**22
"""Pixels."""


@dataclass(frozen=True)
class Captions:
    """Token ids of K paraphrases a scene: (N, K, 256) and (N, K, 77)."""

    t5: Tensor
    clip: Tensor

    def pick(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One paraphrase for each of ``rows``."""
        column = torch.randint(self.t5.shape[1], rows.shape, generator=generator, device=rows.device)
        return self.t5[rows, column].long(), self.clip[rows, column].long()


def scenes(plan: Plan) -> list[Scene]:
    """The training scenes: none of them a held-out combination."""
    rng = random.Random(plan.seed)
    return [random_scene(rng, held_out=False, face_share=plan.face_share) for _ in range(plan.scenes)]


def mira_scenes(plan: Plan) -> list[Scene]:
    """The LoRA's pictures: one face, on each background, a little moved."""
    rng = random.Random(plan.seed + 1)
    keep = {k: getattr(MIRA, k) for k in ("skin", "hair", "hair_colour", "glasses", "beard", "hat")}

    def place() -> float:
        return rng.uniform(-0.03, 0.03)

    return [
        FaceScene(**keep, background=FACE_BACKGROUNDS[i % len(FACE_BACKGROUNDS)], x=0.5 + place(), y=0.54 + place())
        for i in range(plan.lora_scenes)
    ]


def shrink(images: Tensor, size: int) -> Tensor:
    """Bytes (B, 3, S, S) to floats (B, 3, size, size) in [-1, 1], by averaging."""
    return F.interpolate(images.float() / 127.5 - 1, size=(size, size), mode="area")


def _tokenize(texts: list[list[str]], t5: Tokenizer, clip: Tokenizer, device: torch.device) -> Captions:
    flat, count = [text for row in texts for text in row], len(texts[0])
    wide = token_ids(t5, flat, T5_LENGTH).to(device, torch.int16).unflatten(0, (-1, count))
    short = token_ids(clip, flat, CLIP_LENGTH).to(device, torch.int16).unflatten(0, (-1, count))
    return Captions(wide, short)


def captions(drawn: list[Scene], plan: Plan, t5: Tokenizer, clip: Tokenizer, device: torch.device) -> Captions:
    """Paraphrases of every scene."""
    rng = random.Random(plan.seed + 2)
    return _tokenize([[caption(scene, rng) for _ in range(plan.captions)] for scene in drawn], t5, clip, device)


def mira_captions(drawn: list[Scene], plan: Plan, t5: Tokenizer, clip: Tokenizer, device: torch.device) -> Captions:
    """The LoRA's captions: the trigger word and the background."""
    rng = random.Random(plan.seed + 3)
    texts = [[mira_caption(rng, scene.background) for _ in range(plan.captions)] for scene in drawn]
    return _tokenize(texts, t5, clip, device)


def empty_captions(t5: Tokenizer, clip: Tokenizer, device: torch.device) -> Captions:
    """The empty prompt, for guidance."""
    return _tokenize([[""]], t5, clip, device)


@torch.no_grad()
def latents(vae: Autoencoder, bank: Tensor, size: int, autocast: Callable[[], torch.autocast]) -> Tensor:
    """What the transformer sees: float16 (N, 16, size/8, size/8), the latents' means in FLUX.1's format."""
    rows = []
    for images in bank.split(max(1, ENCODED_TOGETHER // (size * size))):
        with autocast():
            mean, _ = vae.encode(shrink(images, size))
        rows.append(LATENT.to_network(mean.float()).half())
    return torch.cat(rows)
