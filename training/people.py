"""Drawn people: what stays with a person, what changes from picture to picture, and where a pose puts a face's parts.

Lengths are in half heights of the head. A person is a row of numbers in [0, 1], so that people lie between people;
people are drawn from their own numbers' seeds, and those below ``HELD_OUT`` are never trained on.

A head is half an ellipsoid seen from the front: a part of the face at (x, y) lies at the depth that the ellipsoid has
there, and a pose turns it: yaw about the upright axis, pitch about the axis through the ears, roll in the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .scenes import BACKGROUNDS, HAIR_COLOURS, HAIR_STYLES, HATS, SKINS

TRAITS: dict[str, tuple[float, float]] = {
    "aspect": (0.68, 0.90),  # The head's width by its height.
    "jaw": (-0.10, 0.22),  # How much narrower it is at the chin.
    "eye_distance": (0.26, 0.42),  # From the middle of the face to an eye.
    "eye_height": (-0.14, 0.02),
    "eye_size": (0.095, 0.17),
    "eye_shape": (0.45, 0.85),  # Its height by its width.
    "iris": (0.0, 1.0),
    "brow_thickness": (0.018, 0.06),
    "brow_height": (0.17, 0.27),  # Above the eye.
    "brow_tilt": (-0.25, 0.30),
    "nose_length": (0.22, 0.40),  # Below the eyes.
    "nose_width": (0.06, 0.14),
    "mouth_height": (0.48, 0.62),
    "mouth_width": (0.17, 0.32),
    "lips": (0.045, 0.10),
    "lip_colour": (0.0, 1.0),
    "skin": (0.0, 3.0),  # Between the four skins of ``scenes``.
    "skin_hue": (-0.04, 0.04),
    "hair_red": (0.0, 1.0),
    "hair_green": (0.0, 1.0),
    "hair_blue": (0.0, 1.0),
    "hair_style": (0.0, 4.0),  # Which of ``HAIR_STYLES``: its whole part.
    "beard": (0.0, 1.0),  # A quarter of the people have one.
}
"""A person's numbers and their ranges."""

HELD_OUT = 10_000
"""People with lower numbers are for judging only."""
ANGLE = math.radians(25)
DEPTH = 0.75
"""How far the nose's side of the head reaches towards the viewer."""
BEARD_SHARE = 0.25
HAIRLINE = -0.35
"""Where a face begins that looks straight ahead, in half heights of the head from its middle: detectors of real faces
leave the hair out, and ``flux-instantid`` makes what is in their boxes anew.
"""


@dataclass(frozen=True)
class People:
    """``traits`` (B, len(TRAITS)): one row a person, in the traits' own units."""

    traits: Tensor

    def __getitem__(self, name: str) -> Tensor:
        """One trait of all: (B, 1, 1)."""
        return self.traits[:, list(TRAITS).index(name)].view(-1, 1, 1)

    def wears(self, style: str) -> Tensor:
        """(B, 1, 1) bool: whose hair is of ``style``."""
        return self["hair_style"].floor().clamp(max=len(HAIR_STYLES) - 1) == HAIR_STYLES.index(style)

    @property
    def bearded(self) -> Tensor:
        return self["beard"] < BEARD_SHARE

    @property
    def skin(self) -> Tensor:
        """(B, 3) in [0, 1]."""
        tones = self.traits.new_tensor(list(SKINS.values())) / 255
        tone = self["skin"].view(-1).clamp(0, len(tones) - 1 - 1e-4)
        low = tone.long()
        mixed = torch.lerp(tones[low], tones[low + 1], (tone - low)[:, None])
        hue = self["skin_hue"].view(-1, 1) * self.traits.new_tensor([1.0, 0.0, -1.0])
        return (mixed + hue).clamp(0, 1)

    @property
    def hair(self) -> Tensor:
        """(B, 3) in [0, 1]: somewhere between the hair colours of ``scenes``."""
        known = self.traits.new_tensor(list(HAIR_COLOURS.values())) / 255
        wanted = torch.cat([self[f"hair_{name}"].view(-1, 1) for name in ("red", "green", "blue")], dim=1)
        near = torch.softmax(-12 * torch.cdist(wanted, known), dim=1)
        return near @ known

    @property
    def looks(self) -> Tensor:
        """(B, 4): the places of the nearest of ``SKINS``, of the style in ``HAIR_STYLES`` and of the nearest of
        ``HAIR_COLOURS``, and 0 for a beard, 1 for none.
        """
        skin, hair = (
            torch.cdist(colour, colour.new_tensor(list(palette.values())) / 255).argmin(1)
            for colour, palette in ((self.skin, SKINS), (self.hair, HAIR_COLOURS))
        )
        style = self["hair_style"].view(-1).long().clamp(max=len(HAIR_STYLES) - 1)
        return torch.stack([skin, style, hair, 1 - self.bearded.view(-1).long()], dim=1)

    @property
    def iris(self) -> Tensor:
        """(B, 3) in [0, 1]: from brown over green to blue."""
        return _ramp(self["iris"].view(-1, 1), ((0.22, 0.12, 0.06), (0.20, 0.42, 0.22), (0.25, 0.45, 0.80)))

    @property
    def lips(self) -> Tensor:
        """(B, 3) in [0, 1]."""
        return _ramp(self["lip_colour"].view(-1, 1), ((0.45, 0.16, 0.16), (0.75, 0.20, 0.31), (0.90, 0.50, 0.48)))


@dataclass(frozen=True)
class Views:
    """How each of B pictures shows its person; all (B,) but the colours.

    Attributes:
        yaw, pitch, roll: radians; positive yaw looks to the picture's right, positive pitch down.
        scale: half the head's height in parts of the picture's side.
        x, y: the head's centre in parts of the picture.
        smile: -1 to 1; ``open``: the mouth, 0 to 1; ``eyes``: 0.5 (narrow) to 1.1; ``brows``: raised by so much.
        light: strength in [0, 0.35] and ``light_from``, its direction in radians.
        background: (B, 3), and ``ground``: (B, 3), what it turns into towards the bottom.
        hat: (B, 3), NaN without one; ``glasses``: bool.
    """

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    scale: Tensor
    x: Tensor
    y: Tensor
    smile: Tensor
    open: Tensor
    eyes: Tensor
    brows: Tensor
    light: Tensor
    light_from: Tensor
    background: Tensor
    ground: Tensor
    hat: Tensor
    glasses: Tensor

    def to(self, device: torch.device) -> Views:
        return Views(*(getattr(self, field.name).to(device) for field in fields(self)))


def people(numbers: Tensor) -> People:
    """The people of these numbers: the same number is the same person, on every device."""
    low, high = (torch.tensor(side) for side in zip(*TRAITS.values(), strict=True))
    rows = [torch.rand(len(TRAITS), generator=torch.Generator().manual_seed(each)) for each in numbers.tolist()]
    return People((low + torch.stack(rows) * (high - low)).to(numbers.device))


def views(count: int, chance: torch.Generator, angle: float = ANGLE, scale: tuple[float, float] = (0.1, 0.42)) -> Views:
    """``count`` pictures as chance has it; no head is cut off by more than a tenth of it."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=chance)

    half = torch.exp(uniform(math.log(scale[0]), math.log(scale[1])))
    room = (0.5 - 0.9 * half).clamp(min=0)
    grounds = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32) / 255
    picked = grounds[torch.randint(len(grounds), (count,), generator=chance)]
    free = torch.rand(count, 3, generator=chance)
    background = torch.where(uniform(0, 1)[:, None] < 0.6, picked, free)
    turned = (background + 0.25 * torch.randn(count, 3, generator=chance)).clamp(0, 1)
    hats = torch.tensor(list(HATS.values()), dtype=torch.float32) / 255
    hat = hats[torch.randint(len(hats), (count,), generator=chance)]
    hat[uniform(0, 1) > 0.35] = torch.nan
    return Views(
        yaw=uniform(-angle, angle),
        pitch=uniform(-angle, angle) * 0.8,
        roll=uniform(-angle, angle) * 0.6,
        scale=half,
        x=0.5 + room * uniform(-1, 1),
        y=0.5 + room * uniform(-1, 1),
        smile=uniform(-1, 1),
        open=(uniform(-1, 1)).clamp(min=0),
        eyes=uniform(0.55, 1.1),
        brows=uniform(-0.03, 0.05),
        light=uniform(0, 0.35),
        light_from=uniform(0, math.tau),
        background=background,
        ground=torch.where(uniform(0, 1)[:, None] < 0.5, background, turned),
        hat=hat,
        glasses=uniform(0, 1) < 0.35,
    )


def turned(who: People, view: Views, x: Tensor, y: Tensor, out: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Where a part of the face at (x, y), ``out`` in front of the head, appears before the roll; how wide it looks.

    All are (B, 1, 1).
    """
    side = who["aspect"]
    depth = DEPTH * (1 - (x / side) ** 2 - y**2).clamp(min=0).sqrt() + out
    yaw, pitch = view.yaw.view(-1, 1, 1), view.pitch.view(-1, 1, 1)
    across = x * yaw.cos() + depth * yaw.sin()
    far = depth * yaw.cos() - x * yaw.sin()
    down = y * pitch.cos() + far * pitch.sin()
    slope = (x / side).clamp(-0.95, 0.95).asin() * 0.6
    return across, down, (yaw + slope).cos().clamp(min=0.3) / slope.cos()


def keypoints(who: People, view: Views) -> Tensor:
    """Eyes, tip of the nose and corners of the mouth (B, 5, 2), in parts of the picture; left as seen in it."""
    points = []
    for sign in (-1, 1):
        points.append(turned(who, view, sign * who["eye_distance"], who["eye_height"])[:2])
    points.append(turned(who, view, torch.zeros_like(who["aspect"]), nose_tip(who), out=0.12)[:2])
    for sign in (-1, 1):
        across, down, width = turned(who, view, torch.zeros_like(who["aspect"]), who["mouth_height"])
        half = who["mouth_width"] * width * (1 + 0.12 * view.smile.view(-1, 1, 1))
        points.append((across + sign * half, down - 0.04 * view.smile.view(-1, 1, 1)))
    flat = torch.stack([torch.cat([x, y], dim=-1).view(-1, 2) for x, y in points], dim=1)
    return placed(view, flat)


def boxes(who: People, view: Views) -> Tensor:
    """The faces' boxes (B, 4), left, top, right, bottom in parts of the picture: from the hairline to the chin."""
    sine, cosine, side = view.roll.sin(), view.roll.cos(), who["aspect"].view(-1)
    half_width, half_height = ((side * cosine) ** 2 + sine**2).sqrt(), ((side * sine) ** 2 + cosine**2).sqrt()
    middle = torch.stack([view.x, view.y, view.x, view.y], dim=1)
    reach = torch.stack([-half_width, hairline(view) * half_height, half_width, half_height], dim=1)
    return middle + reach * view.scale[:, None]


def hairline(view: Views) -> Tensor:
    """Where the hair ends on the forehead: (B,), in half heights of the head from its middle."""
    return HAIRLINE + 0.5 * view.pitch.sin()


def nose_tip(who: People) -> Tensor:
    return who["eye_height"] + who["nose_length"]


def placed(view: Views, points: Tensor) -> Tensor:
    """Points (B, N, 2) of the head, rolled, scaled and moved to their places in the picture."""
    sine, cosine = view.roll.sin()[:, None], view.roll.cos()[:, None]
    x, y = points.unbind(-1)
    rolled = torch.stack([x * cosine - y * sine, x * sine + y * cosine], dim=-1)
    return rolled * view.scale[:, None, None] + torch.stack([view.x, view.y], dim=1)[:, None]


def _ramp(share: Tensor, colours: tuple[tuple[float, float, float], ...]) -> Tensor:
    """Colours (B, 3) at ``share`` (B, 1) of the way through ``colours``."""
    known = share.new_tensor(colours)
    position = share.view(-1).clamp(0, 1 - 1e-4) * (len(known) - 1)
    low = position.long()
    return torch.lerp(known[low], known[low + 1], (position - low)[:, None])
