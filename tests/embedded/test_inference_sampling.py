"""KSampler's semantics on the small Flux, and its noise levels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from ryla_nodes.engines.embedded.execution.calls import Interrupted
from ryla_nodes.engines.embedded.inference import sampling, schedules
from ryla_nodes.engines.embedded.inference.samplers import SAMPLERS, Run
from ryla_nodes.engines.embedded.inference.sampling import Job
from ryla_nodes.engines.embedded.inference.schedules import SCHEDULERS, FlowSampling
from ryla_nodes.errors import RylaError
from small_models import Loaded

EMPTY = {"samples": torch.zeros(1, 16, 8, 8)}


@pytest.fixture(scope="module")
def flux(tiny_home: Path) -> Loaded:
    return small_models.load(tiny_home)


def run(flux: Loaded, latent: dict[str, Any] = EMPTY, prompt: str = "a cat", **job: Any) -> dict[str, Any]:
    settings = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", **job}
    model, clip, _ = flux
    positive, negative = clip.encode(clip.tokenize(prompt)), clip.encode(clip.tokenize("blurry"))
    return sampling.sample(
        model, Job(**settings), positive, negative, latent, settings.pop("progress", lambda *_: None)
    )


def test_the_lists_are_told_without_torch() -> None:
    code = (
        "import sys\n"
        "from ryla_nodes.engines.embedded.core_nodes.diffusion import KSampler\n"
        "lists = {put.id: put.options for put in KSampler.define_schema().inputs if hasattr(put, 'options')}\n"
        "assert not {'torch', 'numpy', 'scipy', 'torchsde'} & sys.modules.keys()\n"
        "print(lists)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str({"sampler_name": [*SAMPLERS], "scheduler": [*SCHEDULERS]})


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
def test_levels_fall_from_one_to_zero(scheduler: str, steps: int) -> None:
    levels = schedules.sigmas(FlowSampling(), scheduler, steps, 1.0)
    assert levels[-1] == 0
    assert (levels[1:] < levels[:-1]).all()
    if scheduler == "ddim_uniform":  # Every n-th level from the lowest up: it need not meet the highest.
        assert abs(len(levels) - steps - 1) <= 1 and levels[0] <= 1
    else:
        assert len(levels) == steps + 1
        assert levels[0] == pytest.approx(1.0, abs=1e-6)


def test_flux_shift() -> None:
    """mu 1.15: half of the time is at three quarters of the noise."""
    assert float(FlowSampling().sigma(torch.tensor(0.5))) == pytest.approx(0.7595, abs=1e-4)
    assert FlowSampling().sigma_at(0.0) == 1.0 and FlowSampling().sigma_at(1.0) == 0.0


def test_partial_denoising_takes_the_end_of_a_longer_run() -> None:
    whole = schedules.sigmas(FlowSampling(), "simple", 20, 1.0)
    assert torch.equal(schedules.sigmas(FlowSampling(), "simple", 10, 0.5), whole[-11:])
    assert len(schedules.sigmas(FlowSampling(), "simple", 10, 0.0)) == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_reproducible_and_finite(flux: Loaded, sampler: str) -> None:
    first = run(flux, sampler_name=sampler)["samples"]
    assert first.shape == (1, 16, 8, 8) and first.dtype == torch.float32 and first.isfinite().all()
    assert torch.equal(first, run(flux, sampler_name=sampler)["samples"])


MEAN, DEVIATION = 0.5, 0.3


def gaussian(sampler: str, steps: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample pictures that are N(MEAN, DEVIATION^2) with their exact denoiser: result, and the ODE's end."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        share = 1 - sigma
        gain = share * DEVIATION**2 / (sigma**2 + (share * DEVIATION) ** 2)
        return MEAN + gain * (x - share * MEAN)

    start = torch.randn(1, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    levels = schedules.sigmas(FlowSampling(), "simple", steps, 1.0)
    run = Run(denoise, FlowSampling(), seed, lambda done: None)
    return SAMPLERS[sampler](run, start, levels), MEAN + DEVIATION * start


def error(sampler: str, steps: int) -> float:
    result, exact = gaussian(sampler, steps)
    return float((result - exact).abs().mean())


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_solvers_converge_in_their_order(sampler: str, order: int) -> None:
    """Twice the steps leave 1/2 of the error at first order, 1/4 at second."""
    assert error(sampler, 40) / error(sampler, 80) > 2**order * 0.8


def test_the_multistep_solver_is_better_than_eulers() -> None:
    assert error("dpmpp_2m", 40) < error("euler", 40) / 2


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde"])
def test_stochastic_samplers_keep_the_distribution(sampler: str) -> None:
    result, exact = gaussian(sampler, 100)
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(result.std()) == pytest.approx(DEVIATION, rel=0.12)
    assert (result - exact).abs().mean() > 0.1  # Not the ODE's end: the noise is new.
    assert not torch.equal(result, gaussian(sampler, 100, seed=4)[0])


def test_the_highest_seed(flux: Loaded) -> None:
    assert run(flux, seed=2**64 - 1, sampler_name="euler_ancestral")["samples"].isfinite().all()


def test_a_batch_draws_its_noise_in_one_go(flux: Loaded) -> None:
    batch = run(flux, {"samples": torch.zeros(2, 16, 8, 8)})["samples"]
    assert torch.allclose(batch[:1], run(flux)["samples"], atol=1e-4)
    second = run(flux, {**EMPTY, "batch_index": [1]})
    assert torch.allclose(batch[1:], second["samples"], atol=1e-4)
    assert second["batch_index"] == [1]


def test_at_cfg_one_the_negative_has_no_part(flux: Loaded) -> None:
    model, clip, _ = flux
    positive = clip.encode(clip.tokenize("a cat"))
    job = Job(1, 3, 1.0, "euler", "simple")
    pictures = [
        sampling.sample(model, job, positive, clip.encode(clip.tokenize(text)), EMPTY, lambda *_: None)["samples"]
        for text in ("blurry", "something else")
    ]
    assert torch.equal(*pictures)
    assert (pictures[0] - run(flux, steps=3, cfg=4.0)["samples"]).abs().mean() > 0.01


def test_guidance_is_the_line_through_both(flux: Loaded) -> None:
    """One Euler step to the end gives the guided picture itself."""
    model, clip, _ = flux
    conditions = [clip.encode(clip.tokenize(text)) for text in ("a cat", "blurry")]

    def one_step(cfg: float, first: int, second: int) -> torch.Tensor:
        job = Job(1, 1, cfg, "euler", "simple")
        result = sampling.sample(model, job, conditions[first], conditions[second], EMPTY, lambda *_: None)
        return torch.as_tensor(result["samples"])

    wanted, unwanted = one_step(1.0, 0, 1), one_step(1.0, 1, 0)
    assert torch.allclose(one_step(3.0, 0, 1), unwanted + 3 * (wanted - unwanted), atol=1e-3)


def test_less_denoising_stays_nearer_to_the_picture(flux: Loaded) -> None:
    start = {"samples": run(flux, seed=5)["samples"]}
    distances = [
        float((run(flux, start, prompt="a dog", denoise=part)["samples"] - start["samples"]).abs().mean())
        for part in (0.2, 0.5, 1.0)
    ]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert torch.equal(run(flux, start, denoise=0.0)["samples"], start["samples"])


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_outside_of_the_mask_the_picture_stays(flux: Loaded, sampler: str) -> None:
    start = run(flux, seed=5)["samples"]
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    result = run(flux, {"samples": start, "noise_mask": mask}, denoise=0.8, sampler_name=sampler)
    inside, outside = (result["samples"] - start).abs()[..., :4], (result["samples"] - start).abs()[..., 4:]
    assert outside.max() < 1e-4 and inside.mean() > 0.05
    assert result["noise_mask"] is mask


def test_a_mask_function_changes_the_mask_by_the_level(flux: Loaded) -> None:
    from dataclasses import replace

    seen = []

    def shut(sigma: torch.Tensor, mask: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        seen.append(float(sigma))
        return torch.zeros_like(mask)

    start = run(flux, seed=5)["samples"]
    model = replace(flux[0], mask_function=shut)
    result = run((model, *flux[1:]), {"samples": start, "noise_mask": torch.ones(1, 1, 64, 64)})
    assert torch.allclose(result["samples"], start, atol=1e-4)
    assert len(seen) == 4 and seen[0] == 1.0


def test_progress_counts_every_step_and_may_cancel(flux: Loaded) -> None:
    model, clip, _ = flux
    positive = clip.encode(clip.tokenize("a cat"))
    steps: list[tuple[int, int]] = []
    sampling.sample(
        model, Job(1, 4, 1.0, "euler", "simple"), positive, positive, EMPTY, lambda *step: steps.append(step)
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def cancel(done: int, total: int) -> None:
        steps.append((done, total))
        if done == 2:
            raise Interrupted

    steps.clear()
    with pytest.raises(Interrupted):
        sampling.sample(model, Job(1, 4, 1.0, "euler", "simple"), positive, positive, EMPTY, cancel)
    assert steps == [(1, 4), (2, 4)]


def test_an_empty_latent_of_four_channels_will_do(flux: Loaded) -> None:
    four = run(flux, {"samples": torch.zeros(1, 4, 8, 8)})["samples"]
    assert torch.equal(four, run(flux)["samples"])


def test_a_latent_of_another_family_is_refused(flux: Loaded) -> None:
    with pytest.raises(RylaError, match="4 channels") as caught:
        run(flux, {"samples": torch.ones(1, 4, 8, 8)})
    assert caught.value.code == "latent_mismatch"


def test_the_vae_takes_pictures_of_any_size_and_an_alpha_channel(flux: Loaded) -> None:
    vae = flux[2]
    picture = torch.rand(2, 70, 51, 4, generator=torch.Generator().manual_seed(0))
    latent = vae.encode(picture)
    assert latent.shape == (2, 16, 8, 6)
    assert torch.allclose(latent, vae.encode(picture[:, 3:67, 1:49, :3]), atol=1e-5)
    assert vae.decode(latent).shape == (2, 64, 48, 3)
