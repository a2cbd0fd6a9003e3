"""The stages of the training and their losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bank import Captions, shrink
from .flux import Flux
from .loop import Trainer, autocast
from .lora import LoraLinear, lora_parameters
from .plan import CANVAS, Bucket, Plan
from .text import TextEncoders
from .vae import Autoencoder

Report = Callable[[str], None]

KL_WEIGHT = 2e-6
EMPTY_SHARE = 0.1
SHIFT_MU = 1.15
GUIDANCE = (1.0, 6.0)


class Painter(nn.Module):
    """The transformer with its text encoders, as they are trained: together."""

    def __init__(self, plan: Plan, vocabularies: tuple[int, int]) -> None:
        super().__init__()
        self.flux = Flux(plan.flux)
        self.text = TextEncoders(plan.flux.context, plan.flux.pooled, *vocabularies)


@dataclass
class Data:
    """Latents by picture size, and the captions of the same scenes."""

    latents: dict[int, Tensor]
    captions: Captions
    empty: Captions


def _generator(plan: Plan, stage: int, step: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(plan.seed * 1_000_003 + stage * 100_000_007 + step)


def _crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """128-pixel views (B, 3, 128, 128): crops of the full, half and quarter size, in turn."""
    parts = []
    for scale, part in zip((1, 2, 4), images.chunk(3), strict=False):
        small = shrink(part, CANVAS // scale)
        edge = small.shape[-1] - 128
        top, left = (int(torch.randint(edge + 1, (), generator=generator, device=images.device)) for _ in range(2))
        parts.append(small[..., top : top + 128, left : left + 128])
    return torch.cat(parts)


def train_autoencoder(vae: Autoencoder, bank: Tensor, plan: Plan, folder: Path, report: Report) -> None:
    """Reconstruction (L1 and L2), a little Kullback-Leibler and latent noise; then FLUX.1's latent statistics."""
    device, cast = bank.device, autocast(bank.device)

    def loss(step: int) -> Tensor:
        generator = _generator(plan, 1, step, device)
        rows = torch.randint(bank.shape[0], (plan.vae_batch,), generator=generator, device=device)
        images = _crop(bank[rows], generator)
        with cast():
            mean, log_variance = vae.encode(images)
            noise = torch.randn(mean.shape, generator=generator, device=device)
            out = vae.decoder(mean + noise * (0.5 * log_variance).exp())
        gap = out.float() - images
        kl = (
            0.5
            * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).sum(dim=(1, 2, 3)).mean()
        )
        return gap.abs().mean() + gap.square().mean() + KL_WEIGHT * kl

    Trainer("vae", vae, plan.vae_steps, 1e-3, folder).run(loss, report)
    with torch.no_grad(), cast():
        mean = torch.cat([vae.encode(shrink(part, 256))[0].float() for part in bank[:128].split(32)])
    vae.fold_latent_format(float(mean.mean()), float(mean.std()))


def _times(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Times (B,): half uniform, half shifted to noise as FLUX.1's sampler is (mu 1.15)."""
    uniform = torch.rand(count, generator=generator, device=device).clamp(1e-4, 1 - 1e-4)
    e = torch.e**SHIFT_MU
    shifted = e / (e + 1 / uniform - 1)
    return torch.where(torch.arange(count, device=device) % 2 == 0, uniform, shifted)


def _pick_bucket(plan: Plan, generator: torch.Generator, device: torch.device) -> Bucket:
    shares = torch.tensor([bucket.share for bucket in plan.buckets], device=device)
    return plan.buckets[int(torch.multinomial(shares, 1, generator=generator))]


@dataclass
class _Batch:
    clean: Tensor
    noise: Tensor
    time: Tensor
    t5: Tensor
    clip: Tensor
    guidance: Tensor

    @property
    def noisy(self) -> Tensor:
        time = self.time.view(-1, 1, 1, 1)
        return (1 - time) * self.clean + time * self.noise

    @property
    def velocity(self) -> Tensor:
        return self.noise - self.clean


def _batch(data: Data, plan: Plan, generator: torch.Generator, empty_share: float) -> _Batch:
    device = data.captions.t5.device
    bucket = _pick_bucket(plan, generator, device)
    latents = data.latents[bucket.size]
    rows = torch.randint(latents.shape[0], (bucket.batch,), generator=generator, device=device)
    t5, clip = data.captions.pick(rows, generator)
    drop = torch.rand(bucket.batch, generator=generator, device=device) < empty_share
    t5 = torch.where(drop[:, None], data.empty.t5[0, :1].long(), t5)
    clip = torch.where(drop[:, None], data.empty.clip[0, :1].long(), clip)
    clean = latents[rows].float()
    noise = torch.randn(clean.shape, generator=generator, device=device)
    low, high = GUIDANCE
    guidance = low + (high - low) * torch.rand(bucket.batch, generator=generator, device=device)
    return _Batch(clean, noise, _times(bucket.batch, generator, device), t5, clip, guidance)


def train_painter(painter: Painter, data: Data, plan: Plan, folder: Path, report: Report) -> None:
    """Rectified flow (Esser et al., 2024): predict ``noise - data`` on the straight path between them."""
    device = data.captions.t5.device
    cast = autocast(device)
    _compile(painter.flux, plan)

    def loss(step: int) -> Tensor:
        batch = _batch(data, plan, _generator(plan, 2, step, device), EMPTY_SHARE)
        with cast():
            context, pooled = painter.text(batch.t5, batch.clip)
            out = painter.flux(batch.noisy, batch.time, context, pooled, batch.guidance)
        return F.mse_loss(out.float(), batch.velocity)

    Trainer("painter", painter, plan.flux_steps, 8e-4, folder).run(loss, report)


def distil_guidance(painter: Painter, data: Data, plan: Plan, folder: Path, report: Report) -> None:
    """Teach the guidance input what two passes would give, as FLUX.1 Dev was (Meng et al., 2023).

    The teacher's velocity is ``u + (1 + (g - 1) / 2.5) * (c - u)``: guidance 3.5 is a classifier-free scale of 2.
    """
    device, cast = data.captions.t5.device, autocast(data.captions.t5.device)
    teacher = copy.deepcopy(painter).requires_grad_(False)
    painter.text.requires_grad_(False)
    _compile(painter.flux, plan)
    _compile(teacher.flux, plan)

    def loss(step: int) -> Tensor:
        batch = _batch(data, plan, _generator(plan, 3, step, device), 0.0)
        count = batch.time.shape[0]
        with torch.no_grad(), cast():
            context, pooled = teacher.text(batch.t5, batch.clip)
            bare, bare_pooled = teacher.text(data.empty.t5[0, :1].long(), data.empty.clip[0, :1].long())
            with_text = teacher.flux(batch.noisy, batch.time, context, pooled, batch.guidance)
            bare, bare_pooled = bare.expand(count, -1, -1), bare_pooled.expand(count, -1)
            without = teacher.flux(batch.noisy, batch.time, bare, bare_pooled, batch.guidance)
        scale = (1 + (batch.guidance - 1) / 2.5).view(-1, 1, 1, 1)
        target = without.float() + scale * (with_text.float() - without.float())
        with cast():
            out = painter.flux(batch.noisy, batch.time, context, pooled, batch.guidance)
        return F.mse_loss(out.float(), target)

    Trainer("distil", painter, plan.distil_steps, 2e-4, folder).run(loss, report)


def train_lora(painter: Painter, data: Data, plan: Plan, folder: Path, report: Report) -> dict[str, LoraLinear]:
    """A low-rank adapter of the distilled transformer on one character's pictures; the base stays as it is."""
    device, cast = data.captions.t5.device, autocast(data.captions.t5.device)
    trained = painter.flux.state_dict()
    # A fresh module: hooks that are added to compiled blocks are not seen.
    painter.flux = Flux(plan.flux).to(device)
    painter.flux.load_state_dict(trained)
    painter.requires_grad_(False)
    adapters = lora_parameters(painter.flux, plan.lora_rank, plan.seed)

    def loss(step: int) -> Tensor:
        batch = _batch(data, plan, _generator(plan, 4, step, device), 0.0)
        with torch.no_grad(), cast():
            context, pooled = painter.text(batch.t5, batch.clip)
        with cast():
            out = painter.flux(batch.noisy, batch.time, context, pooled, batch.guidance)
        return F.mse_loss(out.float(), batch.velocity)

    Trainer("lora", nn.ModuleList(adapters.values()), plan.lora_steps, 2e-3, folder).run(loss, report)
    return adapters


def _compile(flux: Flux, plan: Plan) -> None:
    """Compile block by block, in place: blocks of a kind share one compiled graph for each picture size."""
    for block in (*flux.double_blocks, *flux.single_blocks):
        if plan.compile:
            block.compile(dynamic=False)
