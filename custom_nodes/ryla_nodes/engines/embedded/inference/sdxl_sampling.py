"""SDXL's noise levels, and differential diffusion over them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from .sampling import MaskFunction
from .schedules import Sampling

_BETA_START, _BETA_END, _STEPS = 0.00085, 0.012, 1000


@dataclass(frozen=True)
class EpsSampling:
    """Noise prediction: ``x = picture + sigma * noise``, sigma over 1000 steps of the scaled-linear beta schedule.

    ``schedules.Sampling`` says what the members mean; the time is the table's step.
    """

    @cached_property
    def sigmas(self) -> torch.Tensor:
        betas = torch.linspace(_BETA_START**0.5, _BETA_END**0.5, _STEPS, dtype=torch.float64) ** 2
        kept = torch.cumprod(1 - betas, dim=0)
        return ((1 - kept) / kept).sqrt().float()

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def sigma(self, time: torch.Tensor) -> torch.Tensor:
        steps = time.cpu().clamp(0, _STEPS - 1)
        table = self.sigmas.log()
        low, high, share = table[steps.floor().long()], table[steps.ceil().long()], steps.frac()
        return torch.exp((1 - share) * low + share * high).to(time.device)

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        nearest = (self.sigmas.log() - sigma.cpu().float().log()[..., None]).abs().argmin(dim=-1)
        return nearest.to(sigma.device)

    def sigma_at(self, percent: float) -> float:
        if percent <= 0.0:
            return math.inf
        return 0.0 if percent >= 1.0 else float(self.sigma(torch.tensor((1.0 - percent) * (_STEPS - 1))))

    def signal(self, sigma: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(sigma)

    def log_snr(self, sigma: torch.Tensor) -> torch.Tensor:
        return -sigma.log()

    def finite(self, sigmas: torch.Tensor) -> torch.Tensor:
        return sigmas

    def start(self, picture: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        # At the top the picture counts for nothing: the start has the variance that the network was trained on there.
        at_top = float(sigma) > self.sigma_max * (1 - 1e-5)
        return noise * ((sigma**2 + 1).sqrt() if at_top else sigma) + picture


def differential(sampling: Sampling, strength: float) -> MaskFunction:
    """Differential diffusion (arXiv 2306.00950): a pixel of mask m is sampled during the last part m of the run."""

    def threshold(sigma: torch.Tensor, mask: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        first = sampling.time(levels[0])
        last = sampling.time(torch.clamp(levels[-1], min=sampling.sigma_min))
        binary = (mask >= (sampling.time(sigma) - last) / (first - last)).to(mask.dtype)
        return binary * strength + mask * (1 - strength) if 0 < strength < 1 else binary

    return threshold
