"""Noise levels: what a model's are, and how ComfyUI's schedulers spread them over the steps of a run.

Torch is imported when levels are computed: nodes list the schedulers' names without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ... import embedded

if TYPE_CHECKING:
    import torch

_KARRAS_RHO = 7.0  # Karras et al. 2022, section 5.
_BETA = 0.6  # Both parameters of the beta distribution; Lee et al. 2024 (arXiv 2407.12173).
_LINEAR_NOISE = 0.025  # Share of the noise that linear_quadratic removes in its linear half.
_NEARLY_ONE = 1 - 1e-4  # A flow's first time, where a solver needs the logarithm of the picture's share.
_BETA_START, _BETA_END, _NOISE_STEPS = 0.00085, 0.012, 1000  # Stable Diffusion's, of noise prediction.


class Sampling(Protocol):
    """What schedulers and samplers ask of a model's noise levels.

    A noisy latent is ``signal * picture + sigma * noise``.
    """

    @property
    def sigmas(self) -> torch.Tensor:
        """The table of noise levels, ascending."""

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def sigma(self, time: torch.Tensor) -> torch.Tensor:
        """The noise level at the model's own time."""

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        """The model's own time at a noise level."""

    def sigma_at(self, percent: float) -> float:
        """The noise level when ``percent`` (0..1) of the run is done."""

    def signal(self, sigma: torch.Tensor) -> torch.Tensor:
        """The picture's share of a latent at a noise level."""

    def log_snr(self, sigma: torch.Tensor) -> torch.Tensor:
        """``log(signal / sigma)``, the time of the exponential solvers."""

    def finite(self, sigmas: torch.Tensor) -> torch.Tensor:
        """The levels of a run with a first one whose ``log_snr`` is finite."""

    def start(self, picture: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The latent that a run begins with at its first level."""


@dataclass(frozen=True)
class FlowSampling(Sampling):
    """A rectified flow: sigma in 0..1, the picture's share is the rest.

    ``shift`` is Flux's mu: ``sigma(t) = e^mu / (e^mu + 1/t - 1)``; ComfyUI takes 1.15 at every picture size.
    """

    shift: float = 1.15
    levels: int = 10000

    @cached_property
    def sigmas(self) -> torch.Tensor:
        import torch

        return self.sigma(torch.arange(1, self.levels + 1) / self.levels)

    def sigma(self, time: torch.Tensor) -> torch.Tensor:
        scale = math.exp(self.shift)
        return scale / (scale + (1.0 / time - 1.0))

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        return sigma  # What ComfyUI takes for it: the shift counts twice in the schedulers that ask.

    def sigma_at(self, percent: float) -> float:
        if percent <= 0.0:
            return 1.0
        return 0.0 if percent >= 1.0 else float(self.sigma(self.sigmas.new_tensor(1.0 - percent)))

    def signal(self, sigma: torch.Tensor) -> torch.Tensor:
        return 1.0 - sigma

    def log_snr(self, sigma: torch.Tensor) -> torch.Tensor:
        return -sigma.logit()

    def finite(self, sigmas: torch.Tensor) -> torch.Tensor:
        if sigmas[0] < 1:
            return sigmas
        finite = sigmas.clone()
        finite[0] = self.sigma(self.sigmas.new_tensor(_NEARLY_ONE))
        return finite

    def start(self, picture: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return sigma * noise + (1.0 - sigma) * picture


@dataclass(frozen=True)
class NoiseSampling(Sampling):
    """Noise prediction, as SDXL's: sigma over 1000 steps of the scaled-linear beta schedule, the picture's share is 1.

    The time is the table's step.
    """

    @cached_property
    def sigmas(self) -> torch.Tensor:
        import torch

        betas = torch.linspace(_BETA_START**0.5, _BETA_END**0.5, _NOISE_STEPS, dtype=torch.float64) ** 2
        kept = torch.cumprod(1 - betas, dim=0)
        return ((1 - kept) / kept).sqrt().float()

    def sigma(self, time: torch.Tensor) -> torch.Tensor:
        steps = time.cpu().clamp(0, _NOISE_STEPS - 1)
        table = self.sigmas.log()
        low, high, share = table[steps.floor().long()], table[steps.ceil().long()], steps.frac()
        return ((1 - share) * low + share * high).exp().to(time.device)

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        nearest = (self.sigmas.log() - sigma.cpu().float().log()[..., None]).abs().argmin(dim=-1)
        return nearest.to(sigma.device)

    def sigma_at(self, percent: float) -> float:
        if percent <= 0.0:
            return math.inf
        time = self.sigmas.new_tensor((1.0 - percent) * (_NOISE_STEPS - 1))
        return 0.0 if percent >= 1.0 else float(self.sigma(time))

    def signal(self, sigma: torch.Tensor) -> torch.Tensor:
        return sigma.new_ones(sigma.shape)

    def log_snr(self, sigma: torch.Tensor) -> torch.Tensor:
        return -sigma.log()

    def finite(self, sigmas: torch.Tensor) -> torch.Tensor:
        return sigmas

    def start(self, picture: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        # At the top the picture counts for nothing: the start has the variance that the network was trained on there.
        at_top = float(sigma) > self.sigma_max * (1 - 1e-5)
        return noise * ((sigma**2 + 1).sqrt() if at_top else sigma) + picture


Scheduler: TypeAlias = "Callable[[Sampling, int], torch.Tensor]"


def _simple(sampling: Sampling, steps: int) -> torch.Tensor:
    table = sampling.sigmas
    stride = len(table) / steps
    return _ending_in_zero(table[[-(1 + int(step * stride)) for step in range(steps)]])


def _ddim_uniform(sampling: Sampling, steps: int) -> torch.Tensor:
    table = sampling.sigmas
    descending = table[1 :: max(len(table) // steps, 1)].flip(0)
    return _ending_in_zero(descending)


def _normal(sampling: Sampling, steps: int) -> torch.Tensor:
    return _ending_in_zero(sampling.sigma(_times(sampling, steps)))


def _sgm_uniform(sampling: Sampling, steps: int) -> torch.Tensor:
    return _ending_in_zero(sampling.sigma(_times(sampling, steps + 1)[:-1]))


def _times(sampling: Sampling, count: int) -> torch.Tensor:
    first, last = (float(sampling.time(sampling.sigmas[end])) for end in (-1, 0))
    return _line(first, last, count)


def _karras(sampling: Sampling, steps: int) -> torch.Tensor:
    low, high = (sigma ** (1 / _KARRAS_RHO) for sigma in (sampling.sigma_min, sampling.sigma_max))
    return _ending_in_zero((high + _line(0, 1, steps) * (low - high)) ** _KARRAS_RHO)


def _exponential(sampling: Sampling, steps: int) -> torch.Tensor:
    return _ending_in_zero(_line(math.log(sampling.sigma_max), math.log(sampling.sigma_min), steps).exp())


def _beta(sampling: Sampling, steps: int) -> torch.Tensor:
    embedded.require("The scheduler beta", "scipy")
    import numpy
    from scipy.stats import beta

    table = sampling.sigmas
    quantiles = beta.ppf(1 - numpy.linspace(0, 1, steps, endpoint=False), _BETA, _BETA)
    indices = dict.fromkeys(int(index) for index in numpy.rint(quantiles * (len(table) - 1)))
    return _ending_in_zero(table[list(indices)])


def _linear_quadratic(sampling: Sampling, steps: int) -> torch.Tensor:
    if steps == 1:
        return sampling.sigmas.new_tensor([1.0, 0.0]) * sampling.sigma_max
    linear = steps // 2
    curved = steps - linear
    # A parabola that meets the line at step `linear` and 1 at the last one.
    gap = linear - _LINEAR_NOISE * steps
    square = gap / (linear * curved**2)
    slope = _LINEAR_NOISE / linear - 2 * gap / curved**2
    removed = [step * _LINEAR_NOISE / linear for step in range(linear)]
    removed += [square * (step**2 + linear**2) + slope * step for step in range(linear, steps)]
    return (1.0 - sampling.sigmas.new_tensor([*removed, 1.0])) * sampling.sigma_max


def _kl_optimal(sampling: Sampling, steps: int) -> torch.Tensor:
    # Sabour et al. 2024 (Align Your Steps), equation 4.1.
    share = sampling.sigmas.new_tensor(range(steps)) / max(steps - 1, 1)
    angles = share * math.atan(sampling.sigma_min) + (1 - share) * math.atan(sampling.sigma_max)
    return _ending_in_zero(angles.tan())


def _line(first: float, last: float, count: int) -> torch.Tensor:
    import torch

    return torch.linspace(first, last, count)


def _ending_in_zero(sigmas: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat((sigmas, sigmas.new_zeros(1)))


# In ComfyUI's order.
SCHEDULERS: dict[str, Scheduler] = {
    "simple": _simple,
    "sgm_uniform": _sgm_uniform,
    "karras": _karras,
    "exponential": _exponential,
    "ddim_uniform": _ddim_uniform,
    "beta": _beta,
    "normal": _normal,
    "linear_quadratic": _linear_quadratic,
    "kl_optimal": _kl_optimal,
}


def sigmas(sampling: Sampling, scheduler: str, steps: int, denoise: float) -> torch.Tensor:
    """The noise levels of a run, descending, one more than its steps.

    Args:
        scheduler: a key of ``SCHEDULERS``.
        steps: at least 1.
        denoise: in 0..1; below 1 the levels are the last ``steps + 1`` of a longer run, at 0 there are none.
    """
    if denoise <= 0.0:
        return sampling.sigmas.new_empty(0)
    if denoise > 0.9999:
        return SCHEDULERS[scheduler](sampling, steps)
    return SCHEDULERS[scheduler](sampling, int(steps / denoise))[-(steps + 1) :]
