"""Compiles the painter's blocks for every shape of batch, in a process of its own, while the autoencoder trains.

What it compiles stays in the compiler's cache on disk; training then finds it there.
"""

from __future__ import annotations

from multiprocessing.process import BaseProcess

import torch
import torch.multiprocessing

from .bank import Captions
from .batches import Data
from .plan import Plan
from .stages import Painter, compile_blocks, painter_loss, painter_sampler
from .text import CLIP_LENGTH, LONGEST, T5_LENGTH


def use_tensor_cores() -> None:
    """What is compiled depends on this: the same in every process."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def start(plan: Plan, vocabularies: tuple[int, int], device: torch.device) -> BaseProcess | None:
    """Begin to rehearse; ``join`` what it gives before the painter trains. None where nothing is compiled."""
    if not plan.compile:
        return None
    process = torch.multiprocessing.get_context("spawn").Process(target=_rehearse, args=(plan, vocabularies, device))
    process.start()
    return process


def _rehearse(plan: Plan, vocabularies: tuple[int, int], device: torch.device) -> None:
    use_tensor_cores()
    painter, data = Painter(plan, vocabularies).to(device), stand_in(plan, device)
    compile_blocks(painter.flux, plan)
    sampler, loss = painter_sampler(data, plan), painter_loss(painter, device)
    for text in (LONGEST, T5_LENGTH) if plan.short_share else (T5_LENGTH,):
        for bucket in plan.buckets:
            loss(sampler.batch(bucket, text, 0)).backward()  # type: ignore[no-untyped-call]


def stand_in(plan: Plan, device: torch.device) -> Data:
    """One scene of zeros in every size: the shapes of the data without their values."""

    def captions() -> Captions:
        def ids(length: int) -> torch.Tensor:
            return torch.zeros(1, 1, length, dtype=torch.int16, device=device)

        return Captions(ids(T5_LENGTH), ids(CLIP_LENGTH))

    sides = {bucket.size: bucket.size // 8 for bucket in plan.buckets}
    latents = {size: torch.zeros(1, 16, side, side, dtype=torch.float16, device=device) for size, side in sides.items()}
    return Data(latents, captions(), captions())
