"""Draws people as signed distances in their head's own frame: any size, any crop, whole batches at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .people import People, Views, hairline, nose_tip, turned
from .scenes import CLOTH, FRAME

_FAR = 1e3
_WHITE = (0.97, 0.97, 0.97)


def portraits(who: People, view: Views, size: int, frame: Tensor | None = None) -> Tensor:
    """Draw each person as its view says: RGB (B, 3, size, size) in [0, 1].

    Args:
        frame: (B, 2, 3), from a pixel's centre (column, row, 1) of the output to the place in the whole picture, in
            parts of it: what is cut out and how it is turned. None: the whole picture.
    """
    pen = _Pen(who, view, size, frame)
    pen.hair_behind()
    pen.body()
    pen.head()
    pen.face()
    pen.wear()
    return pen.rgb


@dataclass
class _Part:
    """A part of the face where the pose puts it; ``width`` is how wide it looks."""

    x: Tensor
    y: Tensor
    width: Tensor


class _Pen:
    """Pictures being drawn; ``u`` and ``v`` (B, size, size) are pixels in half heights of the head, unrolled."""

    def __init__(self, who: People, view: Views, size: int, frame: Tensor | None) -> None:
        self.who, self.view = who, view
        steps = torch.arange(size, device=view.x.device, dtype=torch.float32)
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        if frame is None:
            frame = view.x.new_tensor([[1 / size, 0, 0.5 / size], [0, 1 / size, 0.5 / size]]).expand(len(view.x), 2, 3)
        pixels = torch.stack([columns, rows, torch.ones_like(rows)])
        x, y = torch.einsum("bij,jrc->birc", frame, pixels).unbind(1)
        dx, dy = (x - _column(view.x)) / _column(view.scale), (y - _column(view.y)) / _column(view.scale)
        sine, cosine = _column(view.roll).sin(), _column(view.roll).cos()
        self.u, self.v = dx * cosine + dy * sine, dy * cosine - dx * sine
        # Pixels to a half height of the head, for edges of one pixel's width.
        self.sharp = (_column(view.scale) / torch.linalg.det(frame[:, :, :2]).abs().sqrt().view(-1, 1, 1)).clamp(min=1)
        self.rgb = torch.lerp(view.background[:, :, None, None], view.ground[:, :, None, None], y[:, None].clamp(0, 1))

    def paint(self, distance: Tensor, colour: Tensor, where: Tensor | None = None) -> None:
        """Cover what lies inside ``distance``, in the pictures that ``where`` (B, 1, 1) picks; ``colour`` is (B, 3)."""
        cover = (0.5 - distance * self.sharp).clamp(0, 1)
        if where is not None:
            cover = cover * where
        self.rgb = torch.lerp(self.rgb, colour[:, :, None, None], cover[:, None])

    def ellipse(self, x: Tensor | float, y: Tensor | float, rx: Tensor | float, ry: Tensor | float) -> Tensor:
        """First-order distance to an ellipse, exact on the outline."""
        a, b = (self.u - x) / rx, (self.v - y) / ry
        value, slope = torch.hypot(a, b), torch.hypot(a / rx, b / ry)
        return value * (value - 1) / slope.clamp_min(1e-6)

    def box(self, x: Tensor | float, y: Tensor | float, half_width: Tensor | float, half_height: float) -> Tensor:
        return torch.maximum((self.u - x).abs() - half_width, (self.v - y).abs() - half_height)

    def stroke(
        self, x: Tensor, y: Tensor, half: Tensor, tilt: Tensor | float, bend: Tensor | float, thick: Tensor
    ) -> Tensor:
        """A bar of half length ``half`` and half thickness ``thick``, tilted, and bent like a mouth (positive: up)."""
        along = self.u - x
        line = y + tilt * along - bend * (along**2 / half.clamp_min(1e-3) - half / 2)
        return torch.maximum(
            along.abs() - half, (self.v - line).abs() - thick * (1 - 0.6 * (along / half) ** 2).clamp(min=0.2)
        )

    def part(self, x: Tensor | float, y: Tensor, out: float = 0.0) -> _Part:
        wide = x if isinstance(x, Tensor) else torch.full_like(y, x)
        return _Part(*turned(self.who, self.view, wide, y, out))

    def head_shape(self, grown: float = 0.0) -> Tensor:
        """The outline of the head; the chin is narrower or wider by the jaw."""
        narrow = 1 - self.who["jaw"] * self.v.clamp(0, 1) ** 2
        side = self.who["aspect"] + grown
        a, b = self.u / (side * narrow), self.v / (1 + grown)
        value, slope = torch.hypot(a, b), torch.hypot(a / side, b)
        return value * (value - 1) / slope.clamp_min(1e-6)

    # --- from back to front -------------------------------------------------------------------------------------------

    def hair_behind(self) -> None:
        who, side, hair = self.who, self.who["aspect"], self.who.hair
        shift = -0.12 * _column(self.view.yaw).sin()
        long = torch.minimum(self.ellipse(shift, -0.16, side + 0.27, 1.08), self.box(shift, 0.49, side + 0.27, 0.73))
        self.paint(long, hair, who.wears("long"))
        curls = torch.full_like(self.u, _FAR)
        for angle in map(math.radians, range(170, 371, 25)):
            x, y = (side + 0.06) * math.cos(angle) + shift, -0.16 + 0.92 * math.sin(angle)
            curls = torch.minimum(curls, torch.hypot(self.u - x, self.v - y) - 0.29)
        self.paint(curls, hair, who.wears("curly"))

    def body(self) -> None:
        skin = self.who.skin
        cloth = skin.new_tensor(CLOTH).div(255).expand_as(skin)
        self.paint(self.box(0.0, 1.06, 0.29, 0.33), skin * 0.92)
        self.paint(self.ellipse(0.0, 2.04, 1.22, 0.78), cloth)

    def head(self) -> None:
        who, view, skin = self.who, self.view, self.who.skin
        yaw = _column(view.yaw)
        for sign in (-1, 1):
            hidden = (1 - sign * yaw.sin() * 1.6).clamp(0.2, 1.3)
            self.paint(self.ellipse(sign * who["aspect"] - 0.1 * yaw.sin(), 0.04, 0.12 * hidden, 0.18), skin * 0.95)
        outline = self.head_shape()
        self.paint(outline, skin)
        self._shade(outline)
        brow = turned(who, view, torch.zeros_like(yaw), who["eye_height"] - who["brow_height"])[1]
        fringe = torch.minimum(_column(hairline(view)), brow - 0.1)
        cap = torch.maximum(self.head_shape(0.03), self.v - fringe - 0.12 * (self.u - 0.5 * yaw.sin()) ** 2)
        self.paint(cap, who.hair, ~who.wears("bald"))
        beard = torch.maximum(outline, 0.33 + 0.4 * _column(view.pitch).sin() - self.v)
        self.paint(beard, who.hair, who.bearded)

    def _shade(self, outline: Tensor) -> None:
        """Light from one side: the head's skin is darker on the other."""
        angle, strength = _column(self.view.light_from), _column(self.view.light)
        toward = (self.u * angle.cos() + self.v * angle.sin()).clamp(-1, 1)
        inside = (0.5 - outline * self.sharp).clamp(0, 1)
        self.rgb = self.rgb * (1 - inside * strength * (0.5 - 0.5 * toward))[:, None]

    def face(self) -> None:
        who, view = self.who, self.view
        white = who.traits.new_tensor(_WHITE).expand_as(who.skin)
        dark = who.traits.new_tensor(FRAME).div(255).expand_as(who.skin)
        for sign in (-1, 1):
            eye = self.part(sign * who["eye_distance"], who["eye_height"])
            wide = who["eye_size"] * eye.width
            high = who["eye_size"] * who["eye_shape"] * _column(view.eyes)
            self.paint(self.ellipse(eye.x, eye.y, wide, high), white)
            iris = torch.minimum(high, who["eye_size"] * 0.58)
            self.paint(self.ellipse(eye.x, eye.y, iris * eye.width, iris), who.iris)
            self.paint(self.ellipse(eye.x, eye.y, iris * eye.width * 0.5, iris * 0.5), dark)
            brow = self.part(sign * who["eye_distance"], who["eye_height"] - who["brow_height"] - _column(view.brows))
            line = self.stroke(brow.x, brow.y, 0.17 * brow.width, -sign * who["brow_tilt"], 0.15, who["brow_thickness"])
            self.paint(line, who.hair * 0.8)
        self._nose()
        self._mouth()

    def _nose(self) -> None:
        who, shadow = self.who, self.who.skin * 0.82
        bridge, tip = self.part(0.0, who["eye_height"] + 0.05, 0.05), self.part(0.0, nose_tip(who), 0.12)
        lean = (tip.x - bridge.x) / (tip.y - bridge.y).clamp(min=0.05)
        within = ((self.v - bridge.y) / (tip.y - bridge.y).clamp(min=0.05)).clamp(0, 1)
        line = (self.u - bridge.x - lean * (self.v - bridge.y)).abs() - 0.025 - 0.3 * who["nose_width"] * within
        self.paint(torch.maximum(line, torch.maximum(bridge.y - self.v, self.v - tip.y)), who.skin * 0.93)
        self.paint(self.ellipse(tip.x, tip.y, who["nose_width"] * tip.width, 0.055), shadow)

    def _mouth(self) -> None:
        who, view = self.who, self.view
        mouth = self.part(0.0, who["mouth_height"])
        smile, gape = _column(view.smile), _column(view.open)
        half = who["mouth_width"] * mouth.width * (1 + 0.12 * smile)
        lips = self.stroke(mouth.x, mouth.y, half, 0.0, 0.35 * smile, who["lips"] + 0.06 * gape)
        self.paint(lips, who.lips)
        inside = self.stroke(mouth.x, mouth.y, half * 0.8, 0.0, 0.35 * smile, 0.07 * gape + 1e-3)
        self.paint(inside, who.lips * 0.3, gape > 0.15)

    def wear(self) -> None:
        who, view = self.who, self.view
        frame = who.traits.new_tensor(FRAME).div(255).expand_as(who.skin)
        eyes = [self.part(sign * who["eye_distance"], who["eye_height"], 0.05) for sign in (-1, 1)]
        for eye in eyes:
            ring = self.ellipse(eye.x, eye.y, 0.24 * eye.width, 0.24).abs() - 0.035
            self.paint(ring, frame, view.glasses.view(-1, 1, 1))
        left, right = eyes
        bridge = torch.maximum(left.x + 0.2 - self.u, self.u - right.x + 0.2)
        bar = torch.maximum(bridge, (self.v - (left.y + right.y) / 2).abs() - 0.035)
        self.paint(bar, frame, view.glasses.view(-1, 1, 1))
        wearing = ~view.hat.isnan().any(dim=1).view(-1, 1, 1)
        hat, brim = view.hat.nan_to_num(), -0.72 + 0.5 * _column(view.pitch).sin()
        self.paint(self.box(0.0, -1.15, who["aspect"] - 0.05, 0.45), hat, wearing)
        band = torch.maximum(self.u.abs() - who["aspect"] - 0.33, (self.v - brim).abs() - 0.09)
        self.paint(band, hat, wearing)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)
