"""The noise of SDXL's stochastic samplers, drawn by the CPU while the GPU is still at the step before.

ComfyUI draws it from a Brownian tree on the CPU once a step is over, 30 ms in which the GPU waits: a third of the
sampling where the steps are replayed. What is drawn is the same, in the same order and to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from comfy.k_diffusion import sampling
from comfy.samplers import KSAMPLER
from torch import Tensor

_SAMPLERS = ("sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde")
"""Those that draw once for each step, for its own two sigmas, from a tree on the CPU."""
_OPTION = "noise_sampler"

Draw = Callable[[Tensor, Tensor], Tensor]


def sample(
    executor: Any,
    model_wrap: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: Tensor,
    *rest: Any,
    **named: Any,
) -> Any:
    """A wrapper of ``SAMPLER_SAMPLE``: the sampling, with its noise drawn ahead where that is known to be the same."""
    sampler, seed = executor.class_obj, extra_args.get("seed")
    if not _fits(sampler, sigmas, seed):
        return executor(model_wrap, sigmas, extra_args, callback, noise, *rest, **named)
    own = sampler.extra_options
    with NoiseAhead(_draw(sigmas.cpu(), seed, noise), sigmas) as ahead:
        sampler.extra_options = {**own, _OPTION: ahead}
        try:
            return executor(model_wrap, sigmas, extra_args, callback, noise, *rest, **named)
        finally:
            sampler.extra_options = own


def _fits(sampler: Any, sigmas: Tensor, seed: Any) -> bool:
    known = [getattr(sampling, name, None) for name in _SAMPLERS]
    plain = isinstance(sampler, KSAMPLER) and sampler.sampler_function in known
    return plain and sampler.extra_options.get(_OPTION) is None and seed is not None and bool((sigmas[:-1] > 0).any())


def _draw(sigmas: Tensor, seed: Any, noise: Tensor) -> Draw:
    """As the samplers make it, but that everything is on the CPU."""
    like = torch.empty_like(noise, device="cpu")
    made: Draw = sampling.BrownianTreeNoiseSampler(like, sigmas[sigmas > 0].min(), sigmas.max(), seed=seed, cpu=True)
    return made


class NoiseAhead:
    """A sampler's ``noise_sampler``: after each of its calls the next step's noise is begun with, in a thread.

    A context manager: its end waits for what is being drawn.
    """

    def __init__(self, draw: Draw, sigmas: Tensor) -> None:
        """``draw`` gives the noise between two sigmas, on the CPU; ``sigmas`` are the schedule's."""
        self._draw = draw
        self._schedule: Sequence[float] = sigmas.tolist()
        self._dtype = sigmas.dtype
        self._pool = ThreadPoolExecutor(1, "ryla-noise")
        self._next: tuple[tuple[float, float], Future[Tensor]] | None = None
        # Threads do not inherit it, and what was made in it is used here.
        self._inference = torch.is_inference_mode_enabled()
        self._begin(*self._schedule[:2])

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """The noise between two sigmas, where they are."""
        asked = float(sigma), float(sigma_next)
        known, drawing = self._next or (None, None)
        if drawing is None or known != asked:
            drawing = self._submit(*asked)
        self._next = None
        noise = drawing.result()
        if asked[1] in self._schedule[:-1]:
            place = self._schedule.index(asked[1])
            self._begin(asked[1], self._schedule[place + 1])
        return noise.to(sigma.device)

    def _begin(self, sigma: float, sigma_next: float) -> None:
        if sigma_next > 0:  # There is no noise in the last step.
            self._next = (sigma, sigma_next), self._submit(sigma, sigma_next)

    def _submit(self, *sigmas: float) -> Future[Tensor]:
        return self._pool.submit(self._drawn, *sigmas)

    def _drawn(self, sigma: float, sigma_next: float) -> Tensor:
        with torch.inference_mode(self._inference):
            return self._draw(torch.tensor(sigma, dtype=self._dtype), torch.tensor(sigma_next, dtype=self._dtype))

    def __enter__(self) -> NoiseAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
