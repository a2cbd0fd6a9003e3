"""How much of everything: the one place with the sizes and the lengths of the training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ryla_nodes.engines.embedded.inference.flux_network import FluxShape

CANVAS = 512
"""Scenes are drawn at this size; smaller pictures are its averages."""
FLUX = FluxShape(
    hidden=256, latent_channels=16, context=256, pooled=128, double_blocks=2, single_blocks=6, guidance=True
)


@dataclass(frozen=True)
class Bucket:
    """One picture size: its shares of the painter's first and last steps; how many scenes have latents (None: all)."""

    size: int
    first: float
    last: float
    scenes: int | None = None

    def share(self, progress: float) -> float:
        """How often a step takes this size, ``progress`` in [0, 1] of the way through the training."""
        return self.first + (self.last - self.first) * progress

    def batch(self, tokens: int, text: int) -> int:
        """Pictures a step of about ``tokens`` tokens, ``text`` of them for each prompt."""
        return max(1, tokens // ((self.size // 16) ** 2 + text))


@dataclass(frozen=True)
class Plan:
    """``*_steps`` are optimiser steps, ``tokens`` the size of one; ``seed`` fixes scenes, captions, weights and noise.

    ``matrix_rate`` is the painter's for Muon, ``flux_rate`` that for AdamW. The first ``short_share`` of its steps read
    most texts without their padding, which else is four fifths of the work; the rest see the padding that FLUX.1's has.
    After each stage ``judged`` pictures of a kind and size are painted in ``sample_steps`` steps, and scored.
    """

    seed: int = 20260
    scenes: int = 20_000
    face_share: float = 0.45
    captions: int = 4
    vae_widths: tuple[int, ...] = (64, 64, 128, 128)
    vae_steps: int = 2600
    vae_batch: int = 16
    flux: FluxShape = FLUX
    tokens: int = 32_000
    flux_steps: int = 12_000
    flux_rate: float = 1.2e-3
    matrix_rate: float = 3.6e-3
    short_share: float = 0.75
    distil_steps: int = 400
    buckets: tuple[Bucket, ...] = (
        Bucket(128, 0.6, 0.05),
        Bucket(256, 0.35, 0.55, 10_000),
        Bucket(512, 0.05, 0.4, 3000),
    )
    lora_scenes: int = 256
    lora_steps: int = 2000
    lora_rank: int = 8
    judged: int = 96
    sample_steps: int = 20
    compile: bool = True


SMOKE = Plan(
    scenes=24,
    vae_widths=(32, 32, 32, 32),
    vae_steps=3,
    vae_batch=2,
    flux=replace(FLUX, double_blocks=1, single_blocks=1),
    tokens=1200,
    flux_steps=3,
    distil_steps=2,
    buckets=(Bucket(128, 1.0, 1.0),),
    lora_scenes=8,
    lora_steps=2,
    judged=4,
    sample_steps=2,
    compile=False,
)
"""Runs every line of the training on a CPU in seconds; its models know nothing."""
