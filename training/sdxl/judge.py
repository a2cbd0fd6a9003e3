"""Paints held-out people with the models in training, and lets the second recogniser say who they are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from ryla_nodes.engines.embedded.inference.schedules import NoiseSampling, sigmas
from ryla_nodes.engines.embedded.inference.sdxl_model import LATENT
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from ryla_nodes.identity.geometry import place_keypoints
from torch import Tensor
from torch.nn import functional

from ..face_networks import Recogniser
from ..face_stages import aligned, as_bytes, crop, frames, verification
from ..loop import Batch
from ..people import keypoints, people, views
from ..portraits import portraits
from ..sample import sheet as save_grid
from .captions import Texts
from .networks import PARTS, Painter
from .sampler import NOISE
from .stages import predict

CFG = 4.0
STRENGTH = 0.8
_FACE, _CENTER = 0.4, (0.5, 0.42)
"""Where ``sdxl-instantid`` puts a face."""
_COLUMNS = 12


class Judge:
    """``count`` held-out people: a photo of each, its embedding, and its keypoints where the workflow puts them."""

    def __init__(
        self, recogniser: Recogniser, scorer: Recogniser, texts: Texts, count: int, device: torch.device
    ) -> None:
        self.recogniser, self.scorer, self.texts, self.device = recogniser, scorer, texts, device
        self.numbers = torch.arange(count, device=device)
        chance = torch.Generator().manual_seed(5)
        self.who, self.view = people(self.numbers), views(count, chance, scale=(0.25, 0.35)).to(device)
        self.photos = portraits(self.who, self.view, 320)
        points = keypoints(self.who, self.view)
        self.vectors = recogniser(cut(self.photos, points) * 2 - 1)
        self.known = functional.normalize(scorer(cut(self.photos, points) * 2 - 1))
        self.points = points
        drawn = torch.stack([scorer(aligned(self.numbers, 60 + n) * 2 - 1) for n in range(4)], dim=1)
        self.accepted, self.threshold = verification(functional.normalize(drawn, dim=-1).cpu())

    def asked(self, size: int) -> Tensor:
        """Keypoints (count, 5, 2) in pixels of a picture."""
        placed = [
            place_keypoints(each.cpu().numpy() * 320, size, size, face_height=_FACE, center=_CENTER)
            for each in self.points
        ]
        return torch.from_numpy(np.stack(placed)).to(self.device)

    def batch(self, vectors: Tensor, size: int, strength: float) -> tuple[Batch, Batch]:
        """The conditions with and without text and person."""
        count = len(self.numbers)
        said = torch.arange(count, device=self.device) * 7 % self.texts.negative
        column = torch.zeros(count, dtype=torch.long, device=self.device)
        shared = {
            "points": self.asked(size),
            "strength": torch.full((count, len(PARTS)), strength, device=self.device),
            "control": torch.full((count,), STRENGTH, device=self.device),
        }
        noise = torch.rand(vectors.shape, generator=torch.Generator(self.device).manual_seed(3), device=self.device)

        def texts(rows: Tensor) -> Batch:
            return {"clip_l": self.texts.clip_l[rows, column].long(), "clip_g": self.texts.clip_g[rows, column].long()}

        nobody = texts(torch.full_like(said, self.texts.negative)) | {"faces": NOISE * noise}
        return shared | texts(said) | {"faces": vectors}, shared | nobody

    @torch.no_grad()
    def paint(
        self, painter: Painter, vae: Autoencoder, vectors: Tensor, size: int, steps: int, strength: float = STRENGTH
    ) -> Tensor:
        """A picture of each person: (count, 3, size, size) in [0, 1]; DPM-Solver++(2M) over Karras' levels."""
        wanted, nobody = self.batch(vectors, size, strength)
        sampling = NoiseSampling()
        levels = sigmas(sampling, "karras", steps, 1.0).to(self.device)
        noise = torch.Generator(self.device).manual_seed(11)
        x = torch.randn((len(vectors), 4, size // 8, size // 8), generator=noise, device=self.device)
        x = x * (1 + levels[0] ** 2).sqrt()
        before: Tensor | None = None
        for index, (now, then) in enumerate(pairwise(levels)):
            step = sampling.time(now).to(self.device).expand(len(x))
            scaled = x / (now**2 + 1).sqrt()
            with_person, without = (predict(painter, scaled, step, each) for each in (wanted, nobody))
            clean = x - now * (without + CFG * (with_person - without))
            blended = clean
            if before is not None and then > 0:
                ratio = (levels[index - 1].log() - now.log()) / (now.log() - then.log())
                blended = (1 + 1 / (2 * ratio)) * clean - before / (2 * ratio)
            x = (then / now) * x + (1 - then / now) * blended if then > 0 else clean
            before = clean
        rgb = torch.cat([vae.decode(part).float() for part in LATENT.to_vae(x).split(16)])
        return ((rgb + 1) / 2).clamp(0, 1)

    def accept(self, pictures: Tensor) -> tuple[float, float]:
        """The share of the pictures that show their people where they were asked for, and the mean cosine."""
        size = pictures.shape[-1]
        return self.accept_at(pictures, self.asked(size) / size)

    @torch.no_grad()
    def accept_at(self, pictures: Tensor, points: Tensor) -> tuple[float, float]:
        """``accept`` with faces at ``points`` (count, 5, 2), in parts of the pictures."""
        made = functional.normalize(self.scorer(cut(pictures, points) * 2 - 1))
        cosine = (made * self.known).sum(1)
        return float((cosine > self.threshold).float().mean()), float(cosine.mean())


def cut(pictures: Tensor, points: Tensor) -> Tensor:
    """Faces (B, 3, 112, 112) out of pictures (B, 3, H, H), by keypoints (B, 5, 2) in parts of them."""
    return crop(pictures, frames(points))


def sheet(rows: list[Tensor], path: Path, tile: int = 128) -> None:
    """Rows of pictures (N, 3, H, H), one below the other."""
    small = [functional.interpolate(row[:_COLUMNS].float(), size=(tile, tile), mode="area") for row in rows]
    pictures = as_bytes(torch.cat(small).clamp(0, 1)).permute(0, 2, 3, 1).cpu().numpy()
    save_grid(pictures, min(_COLUMNS, len(rows[0])), path)
