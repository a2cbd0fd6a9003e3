"""Trains the face networks on drawn people: what a step sees, and what it is judged by."""

from __future__ import annotations

import math
import random
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from .face_networks import ALIGNED, EMBEDDING, STRIDES, Detector
from .loop import Batch
from .people import HAIRLINE, HELD_OUT, People, boxes, keypoints, people, views
from .portraits import portraits
from .render import render
from .scenes import FaceScene, random_scene

ARCFACE_TEMPLATE = (
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)
)  # fmt: skip
"""Where ArcFace's 112x112 pictures have the five points."""
_SHOWN = 4.0
"""A face of stride s has a half height of about this many strides, between its square root of two less and more."""
_POINTS, CLOSE_POINTS = 4, 8
"""What a keypoint counts, in all pictures and in those of ``close_batch``."""
CLOSE_SCALE = (0.15, 0.42)
"""Half the heights of heads in those, in parts of the picture."""
_MARGIN = 0.35
_SCALE = 24.0
PAINTED = ((-0.08, -0.01), (0.08, -0.01), (0.0, 0.06), (-0.055, 0.13), (0.055, 0.13))
"""Where ``render`` draws the five points of a ``FaceScene``'s face, from its centre in parts of the canvas."""
PAINTED_HALF = (0.19, 0.245)
_BANK = 768
_NEARER, _ASIDE = (0.75, 1.25), 0.1
"""How much larger a face is made, and how far it is moved, in parts of the picture."""
_MIRRORED = (1, 0, 2, 4, 3)
"""The five points of a face in a mirror."""
DRAWN_TOGETHER = 2**25
"""Pixels that are drawn at once: drawing is many small operations."""
_OFF = 0.015
"""How far off a keypoint that the detector finds may be, in heights of the head."""


# --- the detector -----------------------------------------------------------------------------------------------------


def detector_bank(
    seed: int, count: int, size: int, device: torch.device, scale: tuple[float, float] | None = None
) -> Batch:
    """``count`` pictures of a person, as bytes, and what the network should say of them.

    A quarter shows the scenes that the small FLUX paints instead: its faces, and shapes, which are none. ``scale`` is
    of half the heights of heads, in parts of the picture; from 12 pixels on unless given.
    """
    each = max(1, min(count, DRAWN_TOGETHER // size**2))
    scale = scale or (12 / size, 0.45)
    parts = [
        _detector_part(seed + first, min(each, count - first), size, device, scale) for first in range(0, count, each)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _detector_part(seed: int, count: int, size: int, device: torch.device, scale: tuple[float, float]) -> Batch:
    chance = torch.Generator().manual_seed(seed)
    drawn_people = count - count // 4
    who = people(torch.randint(HELD_OUT, 2**31, (drawn_people,), generator=chance).to(device))
    view = views(drawn_people, chance, scale=scale).to(device)
    painted, rows = _painted(size, device), torch.randint(_BANK, (count // 4,), generator=chance).to(device)
    there = torch.ones(drawn_people, dtype=torch.bool, device=device)
    return {
        "pictures": torch.cat([as_bytes(portraits(who, view, size)), painted["pictures"][rows]]),
        "box": torch.cat([boxes(who, view), painted["box"][rows]]) * size,
        "points": torch.cat([keypoints(who, view), painted["points"][rows]]) * size,
        "there": torch.cat([there, painted["there"][rows]]),
    }


def detector_batch(bank: Batch, seed: int, count: int) -> Batch:
    """``count`` pictures of ``bank``, spoilt, in [-1, 1]."""
    device = bank["pictures"].device
    rows = torch.randint(len(bank["pictures"]), (count,), generator=torch.Generator().manual_seed(seed)).to(device)
    chosen = {name: values[rows] for name, values in bank.items()}
    return chosen | {"pictures": spoilt(chosen["pictures"].float() / 255, seed) * 2 - 1}


def close_batch(bank: Batch, seed: int, count: int, size: int) -> Batch:
    """``count`` pictures of ``bank`` as the detector gets a photo: ``size`` pixels, spoilt, some mirrored, all moved.

    In [-1, 1]. InsightFace enlarges what is smaller than 640 pixels: the faces are large then, and their edges soft.
    """
    device, drawn = bank["pictures"].device, bank["pictures"].shape[-1]
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(bank["pictures"]), (count,), generator=chance).to(device)
    mirrored = (torch.rand(count, generator=chance) < 0.5).to(device)
    scale = (_NEARER[0] + (_NEARER[1] - _NEARER[0]) * torch.rand(count, 1, generator=chance)).to(device)
    shift = (_ASIDE * (2 * torch.rand(count, 2, generator=chance) - 1)).to(device)
    # Where each pixel of the new picture is in the old one; a mirrored one runs the other way.
    frame = torch.zeros(count, 2, 3, device=device)
    frame[:, 0, 0] = torch.where(mirrored, -1.0, 1.0) / scale[:, 0]
    frame[:, 1, 1] = 1 / scale[:, 0]
    frame[:, :, 2] = -2 * shift * frame[:, (0, 1), (0, 1)]
    grid = functional.affine_grid(frame, [count, 3, size, size], align_corners=False)
    pictures = functional.grid_sample(
        bank["pictures"][rows].float() / 255, grid, padding_mode="border", align_corners=False
    )

    def moved(places: Tensor) -> Tensor:
        """Places (count, n, 2) of the old pictures, in their pixels, in those of the new ones."""
        turned = places / drawn - 0.5
        turned[..., 0] = torch.where(mirrored[:, None], -turned[..., 0], turned[..., 0])
        return ((turned * scale[:, None] + 0.5 + shift[:, None]) * size).clone()

    corners, points = moved(bank["box"][rows].view(count, 2, 2)), moved(bank["points"][rows])
    points[mirrored] = points[mirrored][:, _MIRRORED]
    box = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    return {"pictures": spoilt(pictures, seed) * 2 - 1, "box": box, "points": points, "there": bank["there"][rows]}


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] as bytes."""
    return (pictures * 255).round().to(torch.uint8)


@lru_cache(maxsize=8)
def _painted(size: int, device: torch.device) -> Batch:
    """Scenes of the small FLUX, drawn: bytes, and where their faces are in parts of the picture."""
    chance = random.Random(size)
    scenes = [random_scene(chance, held_out=False, face_share=0.5) for _ in range(_BANK)]
    centre = torch.tensor([[scene.x, scene.y] for scene in scenes], device=device)
    reach = torch.tensor([-1.0, HAIRLINE, 1.0, 1.0], device=device) * torch.tensor(PAINTED_HALF * 2, device=device)
    return {
        "pictures": render(scenes, size, device),
        "box": torch.cat([centre, centre], dim=1) + reach,
        "points": centre[:, None] + torch.tensor(PAINTED, device=device),
        "there": torch.tensor([isinstance(scene, FaceScene) for scene in scenes], device=device),
    }


def detector_loss(detector: Detector, batch: Batch, points_count: float = _POINTS) -> Tensor:
    """Focal loss of the scores; distances of boxes and points in the cells of a face, in its heights.

    ``points_count``: what a keypoint counts beside an edge of the box; faces are aligned by keypoints alone.

    Source of the focal loss: Lin et al. 2017, Focal Loss for Dense Object Detection.
    """
    size, height = batch["pictures"].shape[-1], (batch["box"][:, 3] - batch["box"][:, 1])
    scores, wanted, errors = [], [], []
    for stride, (score, box, points) in zip(STRIDES, detector(batch["pictures"]), strict=True):
        corner = _corners(size, stride, height.device)
        edges = torch.cat([corner - batch["box"][:, None, :2], batch["box"][:, None, 2:] - corner], dim=2) / stride
        offsets = (batch["points"][:, None] - corner[:, :, None]).flatten(2) / stride
        apart = (box - edges).abs().mean(2) + points_count * (points - offsets).abs().mean(2)
        errors.append(apart * stride / height[:, None])
        scores.append(score)
        wanted.append(_cells(batch, corner, stride).float())
    score, goal = torch.cat(scores, 1), torch.cat(wanted, 1)
    miss = functional.binary_cross_entropy_with_logits(score, goal, reduction="none")
    hard = (score.sigmoid() - goal) ** 2
    return ((hard * miss).sum() + 10 * (torch.cat(errors, 1) * goal).sum()) / goal.sum().clamp(min=1)


def _corners(size: int, stride: int, device: torch.device) -> Tensor:
    """(1, n, 2): where InsightFace sets the cells of a stride, in pixels."""
    steps = torch.arange(0, size, stride, dtype=torch.float32, device=device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], dim=-1).view(1, -1, 2)


def _cells(batch: Batch, corner: Tensor, stride: int) -> Tensor:
    """(B, n) bool: the cells near the middle of a face of this stride's size."""
    box = batch["box"]
    middle, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 3] - box[:, 1]) / 2
    level = torch.log2(half / (_SHOWN * STRIDES[0])).round().clamp(0, len(STRIDES) - 1)
    near = (corner - middle[:, None]).abs().amax(2) < (0.25 * half).clamp(min=0.75 * stride)[:, None]
    return near & (level == STRIDES.index(stride))[:, None] & batch["there"][:, None]


# --- the recogniser ---------------------------------------------------------------------------------------------------


class Margin(nn.Module):
    """ArcFace's head: the angle to a person's own direction is made larger by a margin before people are told apart."""

    def __init__(self, known: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(known, EMBEDDING) * 0.01)

    def forward(self, embedding: Tensor, person: Tensor) -> Tensor:
        cosine = functional.normalize(embedding) @ functional.normalize(self.directions).t()
        angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        own = person[:, None] == torch.arange(len(self.directions), device=person.device)
        wanted = torch.where(own, (angle + _MARGIN).clamp(max=math.pi).cos(), cosine)
        return functional.cross_entropy(_SCALE * wanted, person)


def recogniser_bank(seed: int, known: int, each: int, group: int, device: torch.device) -> Batch:
    """``each`` aligned faces, as bytes, of the ``known`` people of a group, as the detector's errors leave them."""
    person = torch.arange(known).repeat_interleave(each)
    drawn = [
        as_bytes(aligned((part + group * HELD_OUT).to(device), seed + number))
        for number, part in enumerate(person.split(DRAWN_TOGETHER // ALIGNED**2))
    ]
    return {"faces": torch.cat(drawn), "person": person.to(device)}


def recogniser_batch(bank: Batch, seed: int, count: int) -> Batch:
    """``count`` faces of ``bank`` in [-1, 1]."""
    device = bank["faces"].device
    rows = torch.randint(len(bank["faces"]), (count,), generator=torch.Generator().manual_seed(seed)).to(device)
    return {"faces": bank["faces"][rows].float() / 127.5 - 1, "person": bank["person"][rows]}


def aligned(numbers: Tensor, seed: int) -> Tensor:
    """A view of each person, cut out by its keypoints as InsightFace does: (B, 3, 112, 112) in [0, 1]."""
    return aligned_views(people(numbers), seed)


def aligned_views(who: People, seed: int) -> Tensor:
    """``aligned`` of people who have no numbers."""
    chance, device = torch.Generator().manual_seed(seed), who.traits.device
    view = views(len(who.traits), chance, scale=(0.12, 0.42)).to(device)
    found = keypoints(who, view)
    off = torch.randn(found.shape, generator=chance).to(device)
    found = found + _OFF * 2 * view.scale[:, None, None] * off
    return spoilt(portraits(who, view, ALIGNED, frames(found)), seed)


def frames(points: Tensor) -> Tensor:
    """(B, 2, 3): the similarity from ArcFace's template to ``points`` (B, 5, 2) that fits best.

    Source: Umeyama 1991; in two dimensions a similarity is a complex number and a shift.
    """
    template = points.new_tensor(ARCFACE_TEMPLATE)
    origin, target = template.mean(0), points.mean(1)
    a, b = template - origin, points - target[:, None]
    power = (a**2).sum()
    real = (a * b).sum((1, 2)) / power
    imaginary = (a[:, 0] * b[..., 1] - a[:, 1] * b[..., 0]).sum(1) / power
    turn = torch.stack([torch.stack([real, -imaginary], 1), torch.stack([imaginary, real], 1)], 1)
    return torch.cat([turn, (target - turn @ origin)[:, :, None]], dim=2)


def crop(pictures: Tensor, frame: Tensor) -> Tensor:
    """What ``frame`` (B, 2, 3; see ``frames``) cuts out of pictures (B, 3, H, H): faces (B, 3, 112, 112)."""
    steps = torch.arange(ALIGNED, dtype=torch.float32, device=pictures.device)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    place = torch.stack([columns, rows, torch.ones_like(rows)])
    grid = torch.einsum("bij,jrc->brci", frame, place) * 2 - 1
    return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def spoilt(pictures: Tensor, seed: int) -> Tensor:
    """Pictures [0, 1] as they come back from painters: some softer, some noisier, colours a little off."""
    device, count = pictures.device, len(pictures)
    chance = torch.Generator(device).manual_seed(seed)
    softness = torch.rand((count, 1, 1, 1), generator=chance, device=device)
    soft = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    tint = 1 + 0.08 * torch.randn((count, 3, 1, 1), generator=chance, device=device)
    noise = 0.02 * softness * torch.randn(pictures.shape, generator=chance, device=device)
    return (torch.lerp(pictures, soft, softness) * tint + noise).clamp(0, 1)


def verification(embedded: Tensor, false_accepts: float = 0.01) -> tuple[float, float]:
    """How well normalised embeddings (people, views, 512) tell people apart.

    Returns:
        The share of pairs of one person that is accepted, and the cosine at which ``false_accepts`` of the pairs of
        strangers are.
    """
    count, each, _ = embedded.shape
    flat = embedded.flatten(0, 1)
    cosine = flat @ flat.t()
    owner = torch.arange(count).repeat_interleave(each)
    same = owner[:, None] == owner
    upper = torch.triu(torch.ones_like(same), 1)
    strangers, own = cosine[~same & upper], cosine[same & upper]
    threshold = float(strangers.sort().values[int(len(strangers) * (1 - false_accepts))])
    return float((own > threshold).float().mean()), threshold
