"""What one training step sees: latents, noise, times, guidance and captions, all drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from ryla_nodes.engines.embedded.inference.schedules import FlowSampling
from torch import Tensor

from .bank import Captions
from .loop import Batch
from .plan import Bucket, Plan
from .text import LONGEST, T5_LENGTH

GUIDANCE = (1.0, 6.0)


@dataclass
class Data:
    """Latents by picture size, and the captions of the same scenes."""

    latents: dict[int, Tensor]
    captions: Captions
    empty: Captions


def generator(plan: Plan, stage: int, step: int, device: torch.device) -> torch.Generator:
    """The chance of one step."""
    return torch.Generator(device).manual_seed(_seed(plan, stage, step))


def _seed(plan: Plan, stage: int, step: int) -> int:
    return plan.seed * 1_000_003 + stage * 100_000_007 + step


def _times(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Times (B,): half uniform, half shifted to noise as FLUX.1's sampler is (mu 1.15)."""
    uniform = torch.rand(count, generator=generator, device=device).clamp(1e-4, 1 - 1e-4)
    shifted = FlowSampling().sigma(uniform)
    return torch.where(torch.arange(count, device=device) % 2 == 0, uniform, shifted)


@dataclass(frozen=True)
class Sampler:
    """Draws batches of one stage: about ``tokens`` tokens, ``empty`` of the captions left out, guidance in a range."""

    data: Data
    plan: Plan
    stage: int
    tokens: int
    empty: float = 0.0
    guidance: tuple[float, float] = GUIDANCE

    def draw(self, step: int, padded: float = 1.0, progress: float = 1.0) -> Batch:
        """The batch of ``step``: of any size, its text padded as FLUX.1's is with probability ``padded``."""
        chance = random.Random(_seed(self.plan, self.stage, step))
        buckets = self.plan.buckets
        bucket = chance.choices(buckets, [bucket.share(progress) for bucket in buckets])[0]
        return self.batch(bucket, T5_LENGTH if chance.random() < padded else LONGEST, step)

    def batch(self, bucket: Bucket, text: int, step: int) -> Batch:
        """Pictures of one size, with ``text`` of T5's tokens for each."""
        data, device = self.data, self.data.captions.t5.device
        count, chance = bucket.batch(self.tokens, text), generator(self.plan, self.stage, step, device)
        latents = data.latents[bucket.size]
        rows = torch.randint(latents.shape[0], (count,), generator=chance, device=device)
        t5, clip = data.captions.pick(rows, chance)
        drop = torch.rand((count, 1), generator=chance, device=device) < self.empty
        clean, (low, high) = latents[rows].float(), self.guidance
        return {
            "clean": clean,
            "noise": torch.randn(clean.shape, generator=chance, device=device),
            "time": _times(count, chance, device),
            "guidance": low + (high - low) * torch.rand(count, generator=chance, device=device),
            "t5": torch.where(drop, data.empty.t5[0].long(), t5)[:, :text],
            "clip": torch.where(drop, data.empty.clip[0].long(), clip),
        }


def noisy(batch: Batch) -> Tensor:
    """The latents on the straight path from data to noise, at each one's time."""
    time = batch["time"].view(-1, 1, 1, 1)
    return (1 - time) * batch["clean"] + time * batch["noise"]
