"""What KSampler does: noise from the seed, noise levels, guidance with a negative, masks, the latent's scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch.nn import functional

from ....errors import RylaError
from .samplers import SAMPLERS, Denoise, Run
from .schedules import Sampling, sigmas
from .text import Conditioning

Latent = dict[str, Any]
Progress = Callable[[int, int], None]
# (sigma, mask, the run's levels) -> the mask at that level.
MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LatentScale:
    """The scale and shift between a VAE's latents and those that the network was trained on."""

    scale: float
    shift: float = 0.0

    def to_network(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent - self.shift) * self.scale

    def to_vae(self, latent: torch.Tensor) -> torch.Tensor:
        return latent / self.scale + self.shift


class Model(Protocol):
    """What the engine calls a MODEL. ``mask_function`` changes an inpainting mask by the level."""

    family: ClassVar[str]

    @property
    def sampling(self) -> Sampling: ...

    @property
    def latent(self) -> LatentScale: ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def mask_function(self) -> MaskFunction | None: ...

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning, negative: bool) -> torch.Tensor:
        """The picture latent behind ``x`` [B, C, h, w] at the level ``sigma`` (scalar); for which side is said."""


@dataclass(frozen=True)
class Job:
    """KSampler's inputs, with ComfyUI's names and ranges."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float = 1.0


@torch.inference_mode()
def sample(
    model: Model, job: Job, positive: Conditioning, negative: Conditioning, latent: Latent, progress: Progress
) -> Latent:
    """Denoise ``latent`` as ComfyUI's KSampler does.

    Args:
        negative: used when ``job.cfg`` is not 1 (then each step runs the network twice).
        latent: ``samples`` [B, C, h, w] in the VAE's scale; ``noise_mask`` [B or 1, 1, H, W] (1: denoise there) and
            ``batch_index`` (which of the seed's noises each sample takes) may be there.
        progress: called with (steps done, steps); may raise to cancel.

    Returns:
        A copy of ``latent`` with the new ``samples``, float32 on the CPU.

    Raises:
        RylaError: ``latent_mismatch`` when the latent is not of the model's VAE.
    """
    samples = _with_channels(latent["samples"], model.latent_channels)
    levels = sigmas(model.sampling, job.scheduler, job.steps, job.denoise).to(model.device)
    if len(levels) == 0:
        return {**latent, "samples": samples}
    noise = _noise(samples, job.seed, latent.get("batch_index")).to(model.device)
    # An empty latent is the network's zero, not the VAE's.
    picture = model.latent.to_network(samples) if torch.count_nonzero(samples) else samples
    picture = picture.to(model.device, torch.float32)
    denoise = _guided(model, job.cfg, positive, negative)
    if "noise_mask" in latent:
        kept_noise = _noise(samples, job.seed + 1).to(model.device) if job.sampler_name == "ddim" else noise
        denoise = _masked(model, denoise, _mask_like(latent["noise_mask"], picture), picture, kept_noise, levels)
    run = Run(denoise, model.sampling, job.seed, lambda done: progress(done, len(levels) - 1))
    result = SAMPLERS[job.sampler_name](run, model.sampling.start(picture, noise, levels[0]), levels)
    return {**latent, "samples": model.latent.to_vae(result.float()).cpu()}


def _guided(model: Model, cfg: float, positive: Conditioning, negative: Conditioning) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022): from the negative's picture past the positive's."""

    def guided(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        wanted = model.denoise(x, sigma, positive, negative=False)
        if math.isclose(cfg, 1.0):
            return wanted
        unwanted = model.denoise(x, sigma, negative, negative=True)
        return unwanted + (wanted - unwanted) * cfg

    return guided


def _masked(
    model: Model,
    denoise: Denoise,
    mask: torch.Tensor,
    picture: torch.Tensor,
    noise: torch.Tensor,
    levels: torch.Tensor,
) -> Denoise:
    """Keep ``picture`` where ``mask`` is 0, at every noise level."""

    def masked(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        now = mask if model.mask_function is None else model.mask_function(sigma, mask, levels)
        kept = model.sampling.signal(sigma) * picture + sigma * noise
        return denoise(x * now + kept * (1.0 - now), sigma) * now + picture * (1.0 - now)

    return masked


def _noise(latent: torch.Tensor, seed: int, batch_index: Sequence[int] | None = None) -> torch.Tensor:
    """Standard normal noise like ``latent``: the same on every device, since it is drawn on the CPU.

    With ``batch_index`` each sample takes that sample's noise of a batch drawn one after the other.
    """
    generator = torch.Generator("cpu").manual_seed(seed % 2**64)
    if batch_index is None:
        return torch.randn(latent.shape, generator=generator)
    drawn = [torch.randn((1, *latent.shape[1:]), generator=generator) for _ in range(max(batch_index) + 1)]
    return torch.cat([drawn[index] for index in batch_index])


def _mask_like(mask: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """[B or 1, H, W] -> the latent's shape, bilinear."""
    planes = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    sized = functional.interpolate(planes, size=latent.shape[-2:], mode="bilinear")
    return repeated(sized.expand(-1, latent.shape[1], -1, -1), len(latent)).to(latent)


def repeated(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """Cut or repeat dimension 0 to ``batch``."""
    if len(tensor) >= batch:
        return tensor[:batch]
    return tensor.repeat(math.ceil(batch / len(tensor)), *([1] * (tensor.ndim - 1)))[:batch]


def _with_channels(latent: torch.Tensor, channels: int) -> torch.Tensor:
    """An empty latent with the model's channels (EmptyLatentImage makes four); another one as it is."""
    if latent.shape[1] == channels:
        return latent
    if torch.count_nonzero(latent):
        raise RylaError(
            "latent_mismatch",
            f"The latent has {latent.shape[1]} channels, the model works on {channels}: another family's VAE made it.",
        )
    return torch.zeros(latent.shape[0], channels, *latent.shape[2:])
