"""The stages of the training and their losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.fx.experimental._config as shapes
import torch.nn.functional as F
from ryla_nodes.engines.embedded.inference.flux_network import Flux
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from torch import Tensor, nn

from .bank import shrink
from .batches import Data, Sampler, generator, noisy
from .loop import Batch, Trainer, autocast
from .lora import LoraLinear, lora_parameters
from .networks import LATENT_CHANNELS, TextEncoders, flux, fold_latent_format
from .plan import CANVAS, Plan

Report = Callable[[str], None]
Loss = Callable[[Batch], Tensor]

KL_WEIGHT = 2e-6
EMPTY_SHARE = 0.1
PADDED_EARLY = 0.1


class Painter(nn.Module):
    """The transformer with its text encoders, as they are trained: together."""

    def __init__(self, plan: Plan, vocabularies: tuple[int, int]) -> None:
        super().__init__()
        self.flux = flux(plan.flux)
        self.text = TextEncoders(plan.flux.context, plan.flux.pooled, *vocabularies)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights of the linear layers in all blocks, the modulations' left out."""
        stacks = (self.flux.double_blocks, self.flux.single_blocks, self.text.t5.encoder.block)
        return [
            module.weight
            for stack in (*stacks, self.text.clip.text_model.encoder.layers)
            for name, module in stack.named_modules()
            if isinstance(module, nn.Linear) and not name.endswith(("mod.lin", "modulation.lin"))
        ]


def _crop(images: Tensor, chance: torch.Generator) -> Tensor:
    """128-pixel views (B, 3, 128, 128): crops of the full and the half size, and, every other one, all of a picture."""
    parts = []
    for scale, part in zip((1, 2, 4, 4), images.chunk(4), strict=False):
        small = shrink(part, CANVAS // scale)
        edge = small.shape[-1] - 128
        top, left = (int(torch.randint(edge + 1, (), generator=chance, device=images.device)) for _ in range(2))
        parts.append(small[..., top : top + 128, left : left + 128])
    return torch.cat(parts)


def autoencoder_loss(vae: Autoencoder, device: torch.device) -> Loss:
    """Reconstruction (L1 and L2) of ``images`` through latents with ``noise``, and a little Kullback-Leibler."""
    cast = autocast(device)

    def loss(batch: Batch) -> Tensor:
        with cast():
            mean, log_variance = vae.encode(batch["images"])
            log_variance = log_variance.clamp(-30, 20)
            out = vae.decode(mean + batch["noise"] * (0.5 * log_variance).exp())
        gap, mean, log_variance = out.float() - batch["images"], mean.float(), log_variance.float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)).mean()
        return gap.abs().mean() + gap.square().mean() + KL_WEIGHT * kl

    return loss


def train_autoencoder(vae: Autoencoder, bank: Tensor, plan: Plan, folder: Path, report: Report) -> None:
    """Reconstruct crops of ``bank``; then FLUX.1's latent statistics."""
    device, cast = bank.device, autocast(bank.device)

    def draw(step: int) -> Batch:
        chance = generator(plan, 1, step, device)
        rows = torch.randint(bank.shape[0], (plan.vae_batch,), generator=chance, device=device)
        images = _crop(bank[rows], chance)
        noise = torch.randn((plan.vae_batch, LATENT_CHANNELS, 16, 16), generator=chance, device=device)
        return {"images": images, "noise": noise}

    Trainer("vae", vae, plan.vae_steps, 1e-3, folder).run(draw, autoencoder_loss(vae, device), report)
    with torch.no_grad(), cast():
        mean = torch.cat([vae.encode(shrink(part, 256))[0].float() for part in bank[:128].split(32)])
    fold_latent_format(vae, float(mean.mean()), float(mean.std()))


def painter_loss(painter: Painter, device: torch.device) -> Loss:
    """Rectified flow (Esser et al., 2024): predict ``noise - data`` on the straight path between them."""
    cast = autocast(device)

    def loss(batch: Batch) -> Tensor:
        with cast():
            context, pooled = painter.text(batch["t5"], batch["clip"])
            out = painter.flux(noisy(batch), batch["time"], context, pooled, batch["guidance"])
        return F.mse_loss(out.float(), batch["noise"] - batch["clean"])

    return loss


def painter_sampler(data: Data, plan: Plan) -> Sampler:
    """Whole steps, a few of the captions empty."""
    return Sampler(data, plan, 2, plan.tokens, EMPTY_SHARE)


def train_painter(painter: Painter, data: Data, plan: Plan, folder: Path, report: Report) -> None:
    """Train transformer and text encoders together, at first mostly on text without its padding."""
    compile_blocks(painter.flux, plan)
    sampler, loss = painter_sampler(data, plan), painter_loss(painter, data.captions.t5.device)

    def draw(step: int) -> Batch:
        progress = step / plan.flux_steps
        return sampler.draw(step, PADDED_EARLY if progress < plan.short_share else 1.0, progress)

    matrices = painter.hidden_matrices()
    trainer = Trainer("painter", painter, plan.flux_steps, plan.flux_rate, folder, matrices, plan.matrix_rate)
    trainer.run(draw, loss, report)


def distil_loss(painter: Painter, data: Data) -> Loss:
    """The loss of a painter that learns to give, in one pass, what guidance makes of two passes of what it is now."""
    cast = autocast(data.captions.t5.device)
    teacher = copy.deepcopy(painter).requires_grad_(False)

    def target(batch: Batch, context: Tensor, pooled: Tensor) -> Tensor:
        count = batch["time"].shape[0]
        bare, bare_pooled = teacher.text(data.empty.t5[0].long(), data.empty.clip[0].long())
        bare, bare_pooled = bare.expand(count, -1, -1), bare_pooled.expand(count, -1)
        latent, time, guidance = noisy(batch), batch["time"], batch["guidance"]
        with_text = teacher.flux(latent, time, context, pooled, guidance).float()
        without = teacher.flux(latent, time, bare, bare_pooled, guidance).float()
        return without + (1 + (guidance - 1) / 2.5).view(-1, 1, 1, 1) * (with_text - without)

    def loss(batch: Batch) -> Tensor:
        with cast():
            with torch.no_grad():
                context, pooled = teacher.text(batch["t5"], batch["clip"])
                wanted = target(batch, context, pooled)
            out = painter.flux(noisy(batch), batch["time"], context, pooled, batch["guidance"])
        return F.mse_loss(out.float(), wanted)

    return loss


def distil_guidance(painter: Painter, data: Data, plan: Plan, folder: Path, report: Report) -> None:
    """Teach the guidance input what two passes would give, as FLUX.1 Dev was (Meng et al., 2023).

    The teacher's velocity is ``u + (1 + (g - 1) / 2.5) * (c - u)``: guidance 3.5 is a classifier-free scale of 2.
    """
    compile_blocks(painter.flux, plan)
    painter.text.requires_grad_(False)
    # Steps of the shapes that the painter's last ones had: for those its blocks are compiled.
    sampler, loss = Sampler(data, plan, 3, plan.tokens), distil_loss(painter, data)
    Trainer("distil", painter, plan.distil_steps, 2e-4, folder).run(sampler.draw, loss, report)


def train_lora(painter: Painter, data: Data, plan: Plan, folder: Path, report: Report) -> dict[str, LoraLinear]:
    """Hook a low-rank adapter onto the distilled transformer and train it on one character's pictures.

    The painter's blocks must not be compiled: those do not see later hooks. Guidance is 1 here, at which the distilled
    transformer gives its plain velocity, as the loss wants it; what is learned so is guided like the rest.
    """
    sampler = Sampler(data, plan, 4, plan.tokens // 2, guidance=(1.0, 1.0))
    painter.requires_grad_(False)
    adapters = lora_parameters(painter.flux, plan.lora_rank, plan.seed)
    loss = painter_loss(painter, data.captions.t5.device)
    Trainer("lora", nn.ModuleList(adapters.values()), plan.lora_steps, 2e-3, folder).run(sampler.draw, loss, report)
    return adapters


def compile_blocks(flux: Flux, plan: Plan) -> None:
    """Compile block by block, in place: blocks of a kind share one compiled graph for all picture sizes."""
    if not plan.compile:
        return
    shapes.use_duck_shape = False  # type: ignore[attr-defined]  # 64 picture tokens are not the 64 rotations.
    for block in (*flux.double_blocks, *flux.single_blocks):
        block.compile(dynamic=True)
