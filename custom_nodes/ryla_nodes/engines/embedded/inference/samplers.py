"""Solvers, step for step as ComfyUI's of the same names, for flows and for noise prediction alike.

Each takes the run, the start ``x`` [B, C, h, w] and descending ``sigmas`` [steps + 1], and gives the end [B, C, h, w].
Torch is imported when one runs: nodes list their names without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from ... import embedded
from .schedules import Sampling

if TYPE_CHECKING:
    import torch

Denoise: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
NoiseSource: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"


@dataclass(frozen=True)
class Run:
    """One job.

    ``denoise(x, sigma)`` is the picture latent behind x; ``on_step(done)`` is called after each step's first evaluation
    and may raise to cancel.
    """

    denoise: Denoise
    sampling: Sampling
    seed: int
    on_step: Callable[[int], None]


Sampler: TypeAlias = "Callable[[Run, torch.Tensor, torch.Tensor], torch.Tensor]"


def euler(run: Run, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Euler steps: Karras et al. 2022, algorithm 2 without churn."""
    for step, (sigma, following) in enumerate(_pairs(sigmas)):
        slope = (x - run.denoise(x, sigma)) / sigma
        run.on_step(step + 1)
        x = x + slope * (following - sigma)
    return x


def euler_ancestral(run: Run, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Euler steps to below the next level and new noise up to it (eta 1), rescaled to the picture's share there."""
    noise = _independent_noise(x, run.seed)
    for step, (sigma, following) in enumerate(_pairs(sigmas)):
        picture = run.denoise(x, sigma)
        run.on_step(step + 1)
        if following == 0:
            x = picture
            continue
        down = following * following / sigma
        kept = run.sampling.signal(following) / run.sampling.signal(down)
        renoise = (following**2 - (down * kept) ** 2) ** 0.5
        ratio = down / sigma
        x = kept * (ratio * x + (1 - ratio) * picture) + noise(sigma, following) * renoise
    return x


def heun(run: Run, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Heun's method: Karras et al. 2022, algorithm 2 without churn; the last step is Euler's."""
    for step, (sigma, following) in enumerate(_pairs(sigmas)):
        slope = (x - run.denoise(x, sigma)) / sigma
        run.on_step(step + 1)
        ahead = x + slope * (following - sigma)
        if following != 0:
            slope = (slope + (ahead - run.denoise(ahead, following)) / following) / 2
        x = x + slope * (following - sigma)
    return x


def dpmpp_2m(run: Run, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), in the time ``-log sigma``."""
    previous: tuple[torch.Tensor, torch.Tensor] | None = None
    for step, (sigma, following) in enumerate(_pairs(sigmas)):
        picture = run.denoise(x, sigma)
        run.on_step(step + 1)
        length = sigma.log() - following.log()
        target = picture
        if previous is not None and following != 0:
            last_picture, last_length = previous
            weight = length / (2 * last_length)
            target = (1 + weight) * picture - weight * last_picture
        x = (following / sigma) * x - (-length).expm1() * target
        previous = picture, length
    return x


def dpmpp_2m_sde(run: Run, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """SDE-DPM-Solver++(2M), midpoint form, eta 1, in the time ``log_snr``, with Brownian noise."""
    if len(sigmas) < 2:
        return x
    noise = _brownian_noise(x, sigmas, run.seed)
    previous: tuple[torch.Tensor, torch.Tensor] | None = None
    for step, (sigma, following) in enumerate(_pairs(run.sampling.finite(sigmas))):
        picture = run.denoise(x, sigma)
        run.on_step(step + 1)
        if following == 0:
            x = picture
            continue
        length = run.sampling.log_snr(following) - run.sampling.log_snr(sigma)
        gain = run.sampling.signal(following) * (-2 * length).expm1().neg()
        x = (following / sigma) * (-length).exp() * x + gain * picture
        if previous is not None:
            last_picture, last_length = previous
            x = x + 0.5 * gain * (length / last_length) * (picture - last_picture)
        x = x + noise(sigma, following) * following * (-2 * length).expm1().neg().sqrt()
        previous = picture, length
    return x


# In ComfyUI's order. Its ddim is Euler's method that keeps an inpainting mask's outside with noise of its own (see
# ``sampling``).
SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "ddim": euler,
}


def _pairs(sigmas: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(pairwise(sigmas.unbind()))


def _independent_noise(x: torch.Tensor, seed: int) -> NoiseSource:
    import torch

    # The start's noise comes from the seed itself: the next one, so that the two are independent.
    generator = torch.Generator("cpu").manual_seed((seed + 1) % 2**64)
    return lambda sigma, following: torch.randn(x.shape, generator=generator).to(x)


def _brownian_noise(x: torch.Tensor, sigmas: torch.Tensor, seed: int) -> NoiseSource:
    """Unit noise for each interval of noise levels, from one Brownian path: the same path at any number of steps."""
    embedded.require("The sampler dpmpp_2m_sde", "torchsde")
    import torch
    from torchsde import BrownianTree

    low, high = sigmas[sigmas > 0].min().cpu(), sigmas.max().cpu()
    tree = BrownianTree(low, torch.zeros_like(x, device="cpu"), high, entropy=seed)

    def between(sigma: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        start, end = following.cpu().float(), sigma.cpu().float()
        with warnings.catch_warnings():
            # The tree rounds its ends to 1e-6 and warns of times a hair beyond them.
            warnings.simplefilter("ignore", UserWarning)
            increment: torch.Tensor = tree(start, end)
        return (-increment / (end - start).sqrt()).to(x)

    return between
