"""The drawn scenes of people: latents, where their faces are, what is said of them, and who they are.

A scene shows one person, or two side by side, or is one of the small FLUX's, whose face is to become a person's: of
those there is also what they are to become. What tells a person is the recogniser's embedding of other views of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from ryla_nodes.engines.embedded.inference.sdxl_model import LATENT
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from torch import Tensor
from torch.nn import functional

from ..face_networks import Recogniser
from ..face_stages import DRAWN_TOGETHER, PAINTED, PAINTED_HALF, aligned_views, spoilt
from ..people import HAIRLINE, TRAITS, People, Views, keypoints, views
from ..portraits import portraits
from ..render import render
from ..scenes import BACKGROUNDS, HATS, FaceScene, named_looks, random_face
from .captions import EXPRESSIONS, GLASSES, GROUNDS, HEADWEAR, TOLD, pair_row, row, told_row
from .plan import Bucket, Plan

ALONE, APART = (0.13, 0.34), (0.11, 0.17)
"""Half heights of heads in parts of the picture: alone, and of two people."""
PLACES = (0.27, 0.73)
"""Where two people are, in parts of the picture's width."""
_SAID = 0.75
_TOLD = 0.4
"""The share of people alone of whom skin, hair and beard are told, where the background is named."""
_HATTED, _BESPECTACLED = 0.1, 0.15
"""Of two people nothing is said but the background; with more of both they came out as half a hat."""
_FITTING = 0.75
"""The share of the small FLUX's scenes whose skin, hair and beard are those of the person that the face becomes."""
_CUT = (1.05, 1.3)
"""How large such a scene is in the square that ``flux-instantid`` cuts out around the face."""
_PATIENCE = 0.9
"""For some looks every scene is held out: after ten tries or so another is taken."""
_INNER, _SOFT = 0.85, 0.02
"""How much of such a scene's face becomes the person's, in its own radii; the edge's width, in parts of the scene."""
_CALM = {"smile": (-0.3, 0.3), "open": (0.0, 0.3), "eyes": (0.7, 1.0), "brows": (-0.02, 0.02), "light": (0.0, 0.1)}
"""How a face looks where nothing is said of its expression."""
_SMILE = ((0.4, 1.0), (-1.0, -0.4), (-0.2, 0.2), (-0.25, 0.25), (-1.0, 1.0))
_OPEN = ((0.0, 0.3), (0.0, 0.1), (0.6, 1.0), (0.0, 0.05), (0.0, 1.0))


@dataclass(frozen=True)
class Scenes:
    """N scenes of P people: ``latents`` (N, 4, h, w) as the UNet sees them, ``wanted`` what they are to become (the
    same but for the small FLUX's), ``points`` (N, P, 5, 2) in parts of the picture, ``faces`` (N, P, references, 512)
    embeddings, ``bare`` (N, P) 1 for those without glasses, ``said`` (N,) rows of ``captions.Texts``."""

    latents: Tensor
    wanted: Tensor
    points: Tensor
    faces: Tensor
    bare: Tensor
    said: Tensor


@dataclass(frozen=True)
class Bank:
    """The scenes of one picture size: people alone, two of them, and the small FLUX's."""

    alone: Scenes
    pairs: Scenes
    painted: Scenes


def strangers(count: int, chance: torch.Generator) -> People:
    """People whom nobody has seen: their traits are drawn anew, on the generator's device."""
    low, high = (torch.tensor(side, device=chance.device) for side in zip(*TRAITS.values(), strict=True))
    return People(low + torch.rand(count, len(TRAITS), generator=chance, device=chance.device) * (high - low))


@dataclass(frozen=True)
class Said:
    """What is said of N scenes, by its places in the tables of ``captions``; the last place of each is not a word.

    ``worn`` (N, 2) is what can be seen of glasses and hat, said or not, by its places in ``captions.TOLD``.
    """

    ground: Tensor
    hat: Tensor
    glasses: Tensor
    expression: Tensor
    worn: Tensor

    def rows(self) -> Tensor:
        return row(self.ground, self.hat, self.glasses, self.expression)

    def rows_of(self, who: People, chance: torch.Generator) -> Tensor:
        """``rows``, and for some of them what a prompt for FLUX tells of such a person."""
        looks = who.looks.to(self.ground)
        told = told_row(
            torch.cat([looks[:, :3], self.worn[:, :1], looks[:, 3:], self.worn[:, 1:], self.ground[:, None]], 1)
        )
        lot = torch.rand(len(told), generator=chance) < _TOLD
        return torch.where(lot & (self.ground < len(BACKGROUNDS)), told, self.rows())


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
    worn = torch.stack([glasses, hat], dim=1)
    return view, Said(said_ground, told(hat, HEADWEAR), told(glasses, GLASSES), said_mood, worn)


def _between(ranges: tuple[tuple[float, float], ...], which: Tensor, chance: torch.Generator) -> Tensor:
    low, high = torch.tensor(ranges)[which].unbind(1)
    return low + (high - low) * torch.rand(len(which), generator=chance)


class Artist:
    """Draws scenes and reads them with the trained networks; ``vae`` is ``frozen``."""

    def __init__(self, vae: Autoencoder, recogniser: Recogniser, plan: Plan, device: torch.device) -> None:
        self.vae, self.recogniser, self.plan, self.device = vae, recogniser, plan, device

    def alone(self, bucket: Bucket) -> Scenes:
        """Scenes of one person."""
        return self._all(bucket.alone, bucket.size, 1, self._draw_alone)

    def pairs(self, bucket: Bucket) -> Scenes:
        """Scenes of two people, each in its half of the picture."""
        return self._all(bucket.pairs, bucket.size, 2, self._draw_pair)

    def painted(self, bucket: Bucket) -> Scenes:
        """Scenes of the small FLUX, each with somebody whom its face is to become."""
        return self._all(bucket.painted, bucket.size, 3, self._draw_painted)

    @torch.no_grad()
    def _all(self, count: int, size: int, kind: int, draw: Callable[[int, int, int], Scenes]) -> Scenes:
        parts, each = [], max(1, min(count, DRAWN_TOGETHER // size**2))
        seed = self.plan.seed * 10**6 + size * 1000 + kind
        for first in range(0, count, each):
            parts.append(draw(min(each, count - first), size, seed + first * 10))
        names = [field.name for field in fields(Scenes)]
        return Scenes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def _draw_alone(self, count: int, size: int, seed: int) -> Scenes:
        chance = torch.Generator().manual_seed(seed)
        view, said = scene_views(count, chance)
        view, who = view.to(self.device), self._strangers(count, seed)
        latents = self._latent(portraits(who, view, size))
        return Scenes(
            latents,
            latents,
            keypoints(who, view)[:, None].half(),
            self._faces(who, seed)[:, None],
            (~view.glasses[:, None]).float(),
            said.rows_of(who, chance).to(self.device),
        )

    def _draw_pair(self, count: int, size: int, seed: int) -> Scenes:
        chance = torch.Generator().manual_seed(seed)
        (first, said), (second, _) = (scene_views(count, chance, APART) for _ in range(2))
        first, second = (_plainer(view, chance) for view in (first, second))
        second = replace(second, background=first.background, ground=first.ground)
        halves, points, faces = [], [], []
        for side, view in enumerate((first, second)):
            view = replace(view, x=PLACES[side] + 0.03 * torch.randn(count, generator=chance)).to(self.device)
            who = self._strangers(count, seed + side + 1)
            halves.append(portraits(who, view, size).chunk(2, dim=3)[side])
            points.append(keypoints(who, view))
            faces.append(self._faces(who, seed + side + 1))
        latents = self._latent(torch.cat(halves, dim=3))
        return Scenes(
            latents,
            latents,
            torch.stack(points, 1).half(),
            torch.stack(faces, 1),
            (~torch.stack([first.glasses, second.glasses], 1)).float().to(self.device),
            pair_row(said.ground).to(self.device),
        )

    def _draw_painted(self, count: int, size: int, seed: int) -> Scenes:
        who, chance = self._strangers(count, seed), random.Random(seed)
        lot = torch.Generator().manual_seed(seed)
        scenes = [_scene(looks, chance) for looks in who.looks.tolist()]
        centre = torch.tensor([[scene.x, scene.y] for scene in scenes])[:, None]
        points = (centre + torch.tensor(PAINTED)).to(self.device)
        picture = render(scenes, size, self.device).float() / 255
        glasses = torch.tensor([scene.glasses for scene in scenes], device=self.device)
        face = portraits(who, fitted(who, points, glasses, lot), size)
        become = torch.lerp(picture, face, becoming(points, size))
        cut = _CUT[0] + (_CUT[1] - _CUT[0]) * torch.rand(count, generator=lot).to(self.device)
        said = told_row(torch.tensor([_places(scene) for scene in scenes]))
        return Scenes(
            self._latent(_zoomed(spoilt(picture, seed), cut)),
            self._latent(_zoomed(spoilt(become, seed), cut)),
            ((points - 0.5) * cut[:, None, None] + 0.5)[:, None].half(),
            self._faces(who, seed)[:, None],
            (~glasses[:, None]).float(),
            said.to(self.device),
        )

    def _strangers(self, count: int, seed: int) -> People:
        return strangers(count, torch.Generator(self.device).manual_seed(seed))

    def _latent(self, picture: Tensor) -> Tensor:
        mean, _ = self.vae.encode((picture * 2 - 1).to(self.vae.encoder.conv_in.weight.dtype))
        return LATENT.to_network(mean.float()).half()

    def _faces(self, who: People, seed: int) -> Tensor:
        """(N, references, 512)."""
        each = [self.recogniser(aligned_views(who, seed * 7 + n) * 2 - 1) for n in range(self.plan.references)]
        return torch.stack(each, 1).half()


def fitted(who: People, points: Tensor, glasses: Tensor, chance: torch.Generator) -> Views:
    """Views from the front, calm, in which the keypoints of ``who`` lie as near ``points`` (B, 5, 2) as they can."""
    count = len(points)
    view = replace(views(count, chance).to(points.device), glasses=glasses)
    still = torch.zeros(count, device=points.device)
    view = replace(view, yaw=still, pitch=still, roll=still, x=still, y=still, scale=still + 1)
    view = replace(view, hat=torch.full_like(view.hat, torch.nan))
    for name, (low, high) in _CALM.items():
        lot = torch.rand(count, generator=chance).to(points.device)
        view = replace(view, **{name: low + (high - low) * lot})
    own = keypoints(who, view)
    middle, wanted = own.mean(1), points.mean(1)
    apart = own - middle[:, None]
    scale = (apart * (points - wanted[:, None])).sum((1, 2)) / (apart**2).sum((1, 2))
    x, y = (wanted - scale[:, None] * middle).unbind(1)
    return replace(view, scale=scale, x=x, y=y)


def becoming(points: Tensor, size: int) -> Tensor:
    """Where a scene of the small FLUX with keypoints ``points`` (B, 5, 2) becomes a person's: (B, 1, size, size), 0 to
    1. Hair, hat and ears stay, which the prompt is about.
    """
    apart = (points[:, 1] - points[:, 0]).norm(dim=1).view(-1, 1, 1) / (PAINTED[1][0] - PAINTED[0][0])
    x, eyes = (points[:, :2].mean(1)[:, axis].view(-1, 1, 1) for axis in range(2))
    y = eyes - PAINTED[0][1] * apart
    steps = (torch.arange(size, device=points.device) + 0.5) / size
    across, down = steps[None, None, :], steps[None, :, None]
    half_width, half_height = (half * apart for half in PAINTED_HALF)
    radius = torch.hypot((across - x) / half_width, (down - y) / half_height)
    inside = torch.minimum((_INNER - radius) * half_width, down - y - HAIRLINE * half_height)
    return (inside / (_SOFT * apart) + 0.5).clamp(0, 1)[:, None]


def _zoomed(picture: Tensor, scale: Tensor) -> Tensor:
    """Pictures (B, 3, H, H) made ``scale`` (B,) as large about their middle."""
    frame = torch.eye(2, 3, device=picture.device).repeat(len(picture), 1, 1) / scale[:, None, None]
    grid = functional.affine_grid(frame, list(picture.shape), align_corners=False)
    return functional.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)


def _scene(looks: list[int], chance: random.Random) -> FaceScene:
    """A scene of the small FLUX that training may see; some fit ``looks``, a person's."""
    fits = chance.random() < _FITTING
    while True:
        scene = random_face(chance)
        if fits:
            scene = replace(scene, **named_looks(looks))
        if not scene.held_out:
            return scene
        fits = fits and chance.random() < _PATIENCE


def _places(scene: FaceScene) -> list[int]:
    """What is told of ``scene``, by its places in ``captions.TOLD``."""
    # The tables are in the order of the scene's fields; the fields behind them say where it is.
    told = [getattr(scene, field.name) for field in fields(FaceScene)[: len(TOLD)]]
    return [list(table).index(value) for value, table in zip(told, TOLD, strict=True)]


def _plainer(view: Views, chance: torch.Generator) -> Views:
    """``view`` with few hats and glasses."""
    hat = view.hat.clone()
    hat[torch.rand(len(hat), generator=chance) >= _HATTED] = torch.nan
    return replace(view, hat=hat, glasses=torch.rand(len(hat), generator=chance) < _BESPECTACLED)
