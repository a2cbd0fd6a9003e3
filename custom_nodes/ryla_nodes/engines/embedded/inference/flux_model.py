"""Flux as a MODEL of the embedded engine: the transformer and how it is sampled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from .flux import FluxTransformer
from .network import Patch
from .sampling import LatentScale, MaskFunction, repeated
from .schedules import FlowSampling
from .text import Conditioning

DEFAULT_GUIDANCE = 3.5  # ComfyUI's, for a conditioning that went through no FluxGuidance.
LATENT = LatentScale(scale=0.3611, shift=0.1159)


@dataclass(frozen=True)
class FluxModel:
    """What the engine calls a MODEL; ``sampling.Model`` says what its members mean."""

    family: ClassVar[str] = "flux"

    transformer: FluxTransformer
    sampling: FlowSampling = field(default_factory=FlowSampling)
    latent: LatentScale = LATENT
    mask_function: MaskFunction | None = None

    @property
    def latent_channels(self) -> int:
        return self.transformer.shape.latent_channels

    @property
    def device(self) -> torch.device:
        return self.transformer.placement.device

    def patched(self, patches: Iterable[Patch]) -> FluxModel:
        """A clone with further patches on the transformer."""
        network = self.transformer.network.patched(patches)
        return replace(self, transformer=replace(self.transformer, network=network))

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning, negative: bool) -> torch.Tensor:
        """The picture latent that the network sees behind ``x`` [B, C, h, w] at the noise level ``sigma`` (scalar)."""
        context, values = conditioning[0]
        batch = len(x)
        guidance = torch.tensor(float(values.get("guidance", DEFAULT_GUIDANCE)))
        velocity = self.transformer.velocity(
            x,
            sigma.expand(batch),
            repeated(context, batch),
            repeated(values["pooled_output"], batch),
            guidance.expand(batch),
        )
        return x - velocity * sigma
