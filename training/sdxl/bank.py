"""The drawn scenes of people: latents, where their faces are, what is said of them, and who they are.

A scene shows one person, or two side by side. What tells a person is the recogniser's embedding of other views of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from ryla_nodes.engines.embedded.inference.sdxl_model import LATENT
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from torch import Tensor

from ..face_networks import Recogniser
from ..face_stages import DRAWN_TOGETHER, aligned_views
from ..people import TRAITS, People, Views, keypoints, views
from ..portraits import portraits
from ..scenes import BACKGROUNDS, HATS
from .captions import EXPRESSIONS, GLASSES, GROUNDS, HEADWEAR, pair_row, row
from .plan import Bucket, Plan

ALONE, APART = (0.13, 0.34), (0.11, 0.17)
"""Half heights of heads in parts of the picture: alone, and of two people."""
PLACES = (0.27, 0.73)
"""Where two people are, in parts of the picture's width."""
_SAID = 0.75
_SMILE = ((0.4, 1.0), (-1.0, -0.4), (-0.2, 0.2), (-0.25, 0.25), (-1.0, 1.0))
_OPEN = ((0.0, 0.3), (0.0, 0.1), (0.6, 1.0), (0.0, 0.05), (0.0, 1.0))


@dataclass(frozen=True)
class Scenes:
    """N scenes of P people: ``latents`` (N, 4, h, w) as the UNet sees them, ``points`` (N, P, 5, 2) in parts of the
    picture, ``faces`` (N, P, references, 512) embeddings, ``said`` (N,) rows of ``captions.Texts``."""

    latents: Tensor
    points: Tensor
    faces: Tensor
    said: Tensor


def strangers(count: int, chance: torch.Generator) -> People:
    """People whom nobody has seen: their traits are drawn anew, on the generator's device."""
    low, high = (torch.tensor(side, device=chance.device) for side in zip(*TRAITS.values(), strict=True))
    return People(low + torch.rand(count, len(TRAITS), generator=chance, device=chance.device) * (high - low))


@dataclass(frozen=True)
class Said:
    """What is said of N scenes, by its places in the tables of ``captions``; the last place of each is not a word."""

    ground: Tensor
    hat: Tensor
    glasses: Tensor
    expression: Tensor

    def rows(self) -> Tensor:
        return row(self.ground, self.hat, self.glasses, self.expression)


def scene_views(count: int, chance: torch.Generator, scale: tuple[float, float] = ALONE) -> tuple[Views, Said]:
    """Views of ``count`` scenes, and what is said of them: some things are left out."""

    def pick(table: tuple[str, ...]) -> Tensor:
        return torch.randint(len(table) - 1, (count,), generator=chance)

    def told(true: Tensor, table: tuple[str, ...]) -> Tensor:
        return torch.where(torch.rand(count, generator=chance) < _SAID, true, len(table) - 1)

    base = views(count, chance, scale=scale)
    ground, hat, glasses, mood = pick(GROUNDS), pick(HEADWEAR), pick(GLASSES), pick(EXPRESSIONS)
    # A background that is not said may be of any colour.
    said_ground = told(ground, GROUNDS)
    hat[torch.rand(count, generator=chance) < 0.35] = len(HATS)
    said_mood = told(mood, EXPRESSIONS)
    anything = said_mood == len(EXPRESSIONS) - 1
    mood[anything] = len(EXPRESSIONS) - 1
    colours = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32) / 255
    hats = torch.tensor([*HATS.values(), (0, 0, 0)], dtype=torch.float32) / 255
    hats[-1] = torch.nan
    named = said_ground[:, None] < len(BACKGROUNDS)
    background = torch.where(named, colours[ground], base.background)
    view = replace(
        base,
        background=background,
        ground=torch.where(named, background, base.ground),
        hat=hats[hat],
        glasses=glasses == 0,
        smile=_between(_SMILE, mood, chance),
        open=_between(_OPEN, mood, chance),
    )
    return view, Said(said_ground, told(hat, HEADWEAR), told(glasses, GLASSES), said_mood)


def _between(ranges: tuple[tuple[float, float], ...], which: Tensor, chance: torch.Generator) -> Tensor:
    low, high = torch.tensor(ranges)[which].unbind(1)
    return low + (high - low) * torch.rand(len(which), generator=chance)


class Artist:
    """Draws scenes and reads them with the trained networks."""

    def __init__(self, vae: Autoencoder, recogniser: Recogniser, plan: Plan, device: torch.device) -> None:
        self.vae, self.recogniser, self.plan, self.device = vae, recogniser, plan, device

    def alone(self, bucket: Bucket) -> Scenes:
        """Scenes of one person."""
        return self._all(bucket.alone, bucket.size, 1, self._draw_alone)

    def pairs(self, bucket: Bucket) -> Scenes:
        """Scenes of two people, each in its half of the picture."""
        return self._all(bucket.pairs, bucket.size, 2, self._draw_pair)

    @torch.no_grad()
    def _all(
        self, count: int, size: int, people: int, draw: Callable[[int, int, int], tuple[Tensor, Tensor, Tensor, Tensor]]
    ) -> Scenes:
        parts, each = [], max(1, min(count, DRAWN_TOGETHER // size**2))
        seed = self.plan.seed * 10**6 + size * 1000 + people
        for first in range(0, count, each):
            parts.append(draw(min(each, count - first), size, seed + first * 10))
        return Scenes(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _draw_alone(self, count: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chance = torch.Generator().manual_seed(seed)
        view, said = scene_views(count, chance)
        view, who = view.to(self.device), self._strangers(count, seed)
        picture = portraits(who, view, size)
        return (
            self._latent(picture),
            keypoints(who, view)[:, None].half(),
            self._faces(who, seed)[:, None],
            said.rows().to(self.device),
        )

    def _draw_pair(self, count: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chance = torch.Generator().manual_seed(seed)
        first, said = scene_views(count, chance, APART)
        second, _ = scene_views(count, chance, APART)
        second = replace(second, background=first.background, ground=first.ground)
        halves, points, faces = [], [], []
        for side, view in enumerate((first, second)):
            view = replace(view, x=PLACES[side] + 0.03 * torch.randn(count, generator=chance)).to(self.device)
            who = self._strangers(count, seed + side + 1)
            halves.append(portraits(who, view, size).chunk(2, dim=3)[side])
            points.append(keypoints(who, view))
            faces.append(self._faces(who, seed + side + 1))
        latent = self._latent(torch.cat(halves, dim=3))
        return latent, torch.stack(points, 1).half(), torch.stack(faces, 1), pair_row(said.ground).to(self.device)

    def _strangers(self, count: int, seed: int) -> People:
        return strangers(count, torch.Generator(self.device).manual_seed(seed))

    def _latent(self, picture: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            mean, _ = self.vae.encode(picture * 2 - 1)
        return LATENT.to_network(mean.float()).half()

    def _faces(self, who: People, seed: int) -> Tensor:
        """(N, references, 512)."""
        each = [self.recogniser(aligned_views(who, seed * 7 + n) * 2 - 1) for n in range(self.plan.references)]
        return torch.stack(each, 1).half()
