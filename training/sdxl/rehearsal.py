"""Compiles the painter's blocks for every picture size, in a process of its own, while the autoencoder trains.

What it compiles stays in the compiler's cache on disk; training then finds it there.
"""

from __future__ import annotations

from multiprocessing.process import BaseProcess

import torch
import torch.multiprocessing
from torch import Tensor

from ..rehearsal import use_tensor_cores
from ..text import CLIP_LENGTH
from .bank import Bank, Scenes
from .captions import PARAPHRASES, Texts
from .networks import EMBEDDING, LATENT_CHANNELS, Painter
from .plan import Plan
from .sampler import Sampler
from .stages import Loss, compile_blocks


def start(plan: Plan, vocabulary: int, device: torch.device) -> BaseProcess | None:
    """Begin to rehearse; ``join`` what it gives before the painter trains. None where nothing is compiled."""
    if not plan.compile:
        return None
    process = torch.multiprocessing.get_context("spawn").Process(target=_rehearse, args=(plan, vocabulary, device))
    process.start()
    return process


def _rehearse(plan: Plan, vocabulary: int, device: torch.device) -> None:
    use_tensor_cores()
    painter, sampler = Painter(vocabulary).to(device), stand_in(plan, device)
    compile_blocks(painter, plan)
    loss = Loss(painter, device)
    for bucket in plan.buckets:
        loss(sampler.batch(bucket, 0)).backward()  # type: ignore[no-untyped-call]


def stand_in(plan: Plan, device: torch.device) -> Sampler:
    """A scene of zeros in every size: the shapes of the data without their values."""

    def scenes(size: int, people: int) -> Scenes:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(1, *shape, dtype=torch.float16, device=device)

        side = size // 8
        said = torch.zeros(1, dtype=torch.long, device=device)
        faces = zeros(people, 1, EMBEDDING)
        latents = zeros(LATENT_CHANNELS, side, side)
        return Scenes(latents, latents, zeros(people, 5, 2), faces, zeros(people), said)

    ids = torch.zeros(1, PARAPHRASES, CLIP_LENGTH, dtype=torch.long, device=device)
    banks = {
        bucket.size: Bank(scenes(bucket.size, 1), scenes(bucket.size, 2), scenes(bucket.size, 1))
        for bucket in plan.buckets
    }
    return Sampler(banks, Texts(ids, ids), plan, device)
