"""How much of everything: the one place with the sizes and the lengths of the training."""

from __future__ import annotations

from dataclasses import dataclass, field

from .flux import FluxConfig

CANVAS = 512
"""Scenes are drawn at this size; smaller pictures are its averages."""


@dataclass(frozen=True)
class Bucket:
    """One picture size: how often a step takes it, with how many pictures, out of the first ``scenes`` (None: all)."""

    size: int
    share: float
    batch: int
    scenes: int | None = None


@dataclass(frozen=True)
class Plan:
    """``*_steps`` are optimiser steps; ``seed`` fixes scenes, captions, weights and noise."""

    seed: int = 20260
    scenes: int = 24_000
    captions: int = 4
    vae_width: int = 32
    vae_steps: int = 2200
    vae_batch: int = 32
    flux: FluxConfig = field(default_factory=lambda: FluxConfig(depth=2, depth_single=6))
    flux_steps: int = 3800
    distil_steps: int = 600
    buckets: tuple[Bucket, ...] = (Bucket(128, 0.5, 320), Bucket(256, 0.35, 120), Bucket(512, 0.15, 32, scenes=4096))
    lora_steps: int = 400
    lora_rank: int = 8
    compile: bool = True


SMOKE = Plan(
    scenes=24,
    vae_steps=3,
    vae_batch=2,
    flux=FluxConfig(depth=1, depth_single=1),
    flux_steps=3,
    distil_steps=2,
    buckets=(Bucket(128, 1.0, 4),),
    lora_steps=2,
    compile=False,
)
"""Runs every line of the training on a CPU in seconds; its models know nothing."""
