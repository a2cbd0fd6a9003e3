"""The stages of the training and their losses: the autoencoder, then everything else together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from ryla_nodes.engines.embedded.inference.schedules import NoiseSampling
from ryla_nodes.engines.embedded.inference.sdxl_model import LATENT
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from torch import Tensor
from torch.nn import functional

from ..face_networks import Recogniser
from ..face_stages import crop
from ..loop import Batch, Trainer, autocast
from ..stages import autoencoder_loss
from .hints import draw_hints
from .networks import LATENT_CHANNELS, Crowd, Painter, fold_latent_format
from .plan import Plan
from .sampler import WINDOWS, Sampler, window

Report = Callable[[str], None]

OFFSET = 0.12
"""Noise that is one for a whole channel: without it a network reads the mean of the picture off the noise."""
_GAMMA = 5.0
_LIKENESS = 1.0
"""What a cosine counts beside the square of the noise that was not found."""
_READABLE = 32
"""The side in latents of the smallest pictures whose faces a recogniser can read."""
_LEAST, _MOST = 0.05, 100.0
"""Bounds of a level's weight."""


# --- the autoencoder --------------------------------------------------------------------------------------------------


def train_autoencoder(vae: Autoencoder, pictures: Tensor, plan: Plan, folder: Path, report: Report) -> None:
    """Reconstruct crops of ``pictures`` (N, 3, 512, 512) bytes; then SDXL's mean and deviation of the latents."""
    device, cast = pictures.device, autocast(pictures.device)
    edge = min(128, pictures.shape[-1] // 2)

    def draw(step: int) -> Batch:
        chance = random.Random(plan.seed * 10**6 + step)
        rows = torch.tensor([chance.randrange(len(pictures)) for _ in range(plan.vae_batch)], device=device)
        half = plan.vae_batch // 2
        # Heads are cut out of the whole picture, and seen at half its size.
        large, small = pictures[rows[:half]], pictures[rows[half:]]
        small = functional.avg_pool2d(small.float(), 2)
        crops = []
        for part in (large.float(), small):
            top, left = (chance.randrange(part.shape[-1] - edge + 1) for _ in range(2))
            crops.append(part[..., top : top + edge, left : left + edge])
        noise = torch.Generator(device).manual_seed(plan.seed * 10**6 + step)
        shape = (plan.vae_batch, LATENT_CHANNELS, edge // 8, edge // 8)
        return {"images": torch.cat(crops) / 127.5 - 1, "noise": torch.randn(shape, generator=noise, device=device)}

    Trainer("vae", vae, plan.vae_steps, 1e-3, folder).run(draw, autoencoder_loss(vae, device), report)
    with torch.no_grad(), cast():
        small = functional.avg_pool2d(pictures[:256].float(), 2) / 127.5 - 1
        mean = torch.cat([vae.encode(part)[0].float() for part in small.split(32)])
    fold_latent_format(vae, mean.mean(dim=(0, 2, 3)), mean.std(dim=(0, 2, 3)), LATENT.scale)


# --- the painter ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Likeness:
    """Looks at the faces in pictures that are still latents, with the recogniser that InstantID uses.

    It is small in the squares of the noise, so a painter would learn it last. ``vae`` is ``frozen``.
    """

    vae: Autoencoder
    recogniser: Recogniser

    def __call__(self, latents: Tensor, batch: Batch) -> Tensor:
        """1 - cosine to those who should be there, of the faces that are looked at: (K,)."""
        sizes = [len(batch[f"{kind}_corner"]) for kind in WINDOWS]
        shown = latents.index_select(0, batch["watched"]).split(sizes)
        faces = torch.cat([self._faces(part, batch, kind) for kind, part in zip(WINDOWS, shown, strict=True)])
        return 1 - functional.cosine_similarity(self.recogniser(faces * 2 - 1).float(), batch["own"])

    def _faces(self, latents: Tensor, batch: Batch, kind: str) -> Tensor:
        """The aligned faces (K, 3, 112, 112) in their windows of ``latents`` (K, 4, h, w)."""
        part = LATENT.to_vae(cut_out(latents, batch[f"{kind}_corner"], window(kind, latents.shape[-1])))
        with torch.autocast(latents.device.type, enabled=False):
            pictures = (self.vae.decode(part.to(self.vae.decoder.conv_in.weight.dtype)).float() + 1) / 2
            return crop(pictures, batch[f"{kind}_frames"])  # In bfloat16 it would be cut out a pixel beside the face.


def cut_out(latents: Tensor, corner: Tensor, width: int) -> Tensor:
    """Squares (K, C, width, width) of ``latents`` (K, C, h, w) from ``corner`` (K, 2) on, column and row."""
    count, channels, height, _ = latents.shape
    steps = torch.arange(width, device=latents.device)
    columns, rows = (corner + steps[:, None, None]).permute(2, 1, 0)
    wide = latents.gather(3, columns[:, None, None].expand(count, channels, height, width))
    return wide.gather(2, rows[:, None, :, None].expand(count, channels, width, width))


class Loss:
    """The noise that the painter does not find.

    A level of signal-to-noise ratio r is weighted so that the picture left without the noise counts min(r, 5) + 1: the
    first term is min-SNR (Hang et al. 2023), the second that of a velocity. Without it the levels of much noise count
    next to nothing, and it is there that skin and hair are settled, by nothing but the photo.

    Some scenes of the small FLUX are seen as they were painted and wanted with the person's face: what is painted over
    another's face, as ``flux-instantid`` does, has to become the person all the same. With ``likeness`` also who it
    takes the people to be counts, by the picture that is left without the noise.
    """

    def __init__(self, painter: Painter, device: torch.device, likeness: Likeness | None = None) -> None:
        self.painter, self.likeness, self.cast = painter, likeness, autocast(device)
        sigmas = NoiseSampling().sigmas.to(device)
        self.signal, self.noise = 1 / (1 + sigmas**2).sqrt(), sigmas / (1 + sigmas**2).sqrt()
        ratio = sigmas**-2
        self.weight = ((ratio.clamp(max=_GAMMA) + 1) / ratio).clamp(_LEAST, _MOST)

    def __call__(self, batch: Batch) -> Tensor:
        noise = batch["noise"] + OFFSET * batch["shift"]
        signal, level = (table[batch["step"]].view(-1, 1, 1, 1) for table in (self.signal, self.noise))
        noisy = signal * batch["seen"] + level * noise
        found = noise + signal / level * (batch["seen"] - batch["wanted"])
        with self.cast():
            out = predict(self.painter, noisy, batch["step"], batch)
        weight = self.weight[batch["step"]]
        loss = (weight * (out - found).square().mean(dim=(1, 2, 3))).mean()
        if self.likeness is None or noisy.shape[-1] < _READABLE:
            return loss
        with self.cast():
            unlike = self.likeness((noisy - level * out) / signal, batch)
        # Of much noise little of a face is left to be seen; but it is there that the sampler settles who it will be.
        seen = (signal.view(-1).sqrt() * batch["known"])[batch["watched"]]
        return loss + _LIKENESS * (seen * batch["counts"] * unlike).mean()


def predict(painter: Painter, x: Tensor, step: Tensor, batch: Batch) -> Tensor:
    """The noise in ``x`` (B, 4, h, w) at ``step`` (B,) of the schedule.

    ``batch`` has texts for B pictures, and for B + P people faces, keypoints in pixels and strengths (N, 3) by PARTS:
    P pictures at the end show two.
    """
    rows, size = len(x), (x.shape[-2], x.shape[-1])
    context, pooled = painter.text(batch["clip_l"], batch["clip_g"])
    sizes = torch.zeros(rows, 6, device=x.device)
    for column, side in ((0, size[0]), (1, size[1]), (4, size[0]), (5, size[1])):
        sizes[:, column].fill_(8.0 * side)
    added = {"text_embeds": pooled, "time_ids": sizes}
    tokens = painter.adapter(batch["faces"])
    downs, middle = _controlled(painter, x, step, added, tokens, batch)
    crowd = Crowd(tokens, batch["strength"], rows, size)
    out: Tensor = painter.unet(
        x,
        step,
        context,
        added_cond_kwargs=added,
        cross_attention_kwargs={"identity": crowd},
        down_block_additional_residuals=downs,
        mid_block_additional_residual=middle,
        return_dict=False,
    )[0]
    return out.float()


def _controlled(
    painter: Painter, x: Tensor, step: Tensor, added: dict[str, Tensor], tokens: Tensor, batch: Batch
) -> tuple[list[Tensor], Tensor]:
    """The ControlNet's residuals; those of a pair's people are summed, as those of two ControlNets are.

    It reads tokens of other people than those in the picture: so it learns to leave the likeness to the adapter, and a
    strength of 0 means nobody.
    """
    rows, people = len(x), len(tokens)
    alone = 2 * rows - people

    def spread(values: Tensor) -> Tensor:
        return torch.cat([values, values[alone:]])

    hints = draw_hints(batch["points"], 8 * x.shape[-1])
    downs, middle = painter.control(
        spread(x),
        spread(step),
        tokens.detach().roll(1, 0),
        hints,
        added_cond_kwargs={name: spread(value) for name, value in added.items()},
        return_dict=False,
    )
    strength = batch["control"].view(-1, 1, 1, 1)

    def joined(residual: Tensor) -> Tensor:
        residual = residual * strength
        return torch.cat([residual[:alone], residual[alone:rows] + residual[rows:]])

    return [joined(down) for down in downs], joined(middle)


def compile_blocks(painter: Painter, plan: Plan) -> None:
    """Compile block by block, in place: those of a width share one graph for each picture size."""
    if not plan.compile:
        return
    torch._dynamo.config.cache_size_limit = 64
    for block in painter.blocks():
        block.compile(dynamic=False)


def train_painter(
    painter: Painter, sampler: Sampler, likeness: Likeness, plan: Plan, folder: Path, report: Report
) -> None:
    """Train UNet, ControlNet, text encoders and adapter together."""
    compile_blocks(painter, plan)
    seconds = None if plan.minutes is None else 60 * plan.minutes
    trainer = Trainer("sdxl", painter, plan.steps, plan.rate, folder, painter.matrices(), plan.matrix_rate, seconds)
    trainer.run(sampler.draw, Loss(painter, sampler.device, likeness), report)
