"""Draws scenes with signed distances: exact at any size, anti-aliased, many at once on any torch device.

Distances are in parts of the canvas, negative inside (Quilez, "2D distance functions", for the polygon's). Scenes built
of the same parts are drawn together: places are (B, 1, 1) tensors, colours (B, 3, 1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .scenes import BACKGROUNDS, CLOTH, COLOURS, FRAME, HAIR_COLOURS, HATS, SKINS, Colour, FaceScene, Scene, ShapeScene

Place = float | Tensor
Point = tuple[Place, Place]

EYE_WHITE: Colour = (250, 250, 250)
LIPS: Colour = (190, 50, 80)
TOGETHER = 2**24
"""Pixels drawn at once."""


class Canvas:
    """Pictures of ``size`` pixels; ``x`` and ``y`` (size, size) hold each pixel's centre in [0, 1]."""

    def __init__(self, size: int, backgrounds: Sequence[Colour], device: torch.device | str = "cpu") -> None:
        steps = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
        self.size = size
        self.y, self.x = torch.meshgrid(steps, steps, indexing="ij")
        self.rgb = self._colours(backgrounds).expand(-1, 3, size, size).clone()

    def _colours(self, colours: Sequence[Colour]) -> Tensor:
        return torch.tensor(colours, device=self.x.device, dtype=torch.float32).view(-1, 3, 1, 1) / 255

    def paint(self, distance: Tensor, colours: Sequence[Colour]) -> None:
        """Cover what lies inside ``distance`` (B, size, size), a colour a picture; the edge blends over one pixel."""
        cover = (0.5 - distance * self.size).clamp(0, 1)[:, None]
        self.rgb = torch.lerp(self.rgb, self._colours(colours).expand_as(self.rgb), cover.expand_as(self.rgb))

    def disc(self, cx: Place, cy: Place, radius: Place) -> Tensor:
        return torch.hypot(self.x - cx, self.y - cy) - radius

    def ellipse(self, cx: Place, cy: Place, rx: float, ry: float) -> Tensor:
        """First-order distance to an ellipse: exact on the outline, which is all that painting reads."""
        u, v = (self.x - cx) / rx, (self.y - cy) / ry
        value, slope = torch.hypot(u, v), torch.hypot(u / rx, v / ry)
        return value * (value - 1) / slope.clamp_min(1e-6)

    def box(self, cx: Place, cy: Place, half_width: Place, half_height: Place) -> Tensor:
        return torch.maximum((self.x - cx).abs() - half_width, (self.y - cy).abs() - half_height)

    def polygon(self, points: Sequence[Point]) -> Tensor:
        """Distance to a polygon, by its nearest edge and the winding around the pixel."""
        nearest, sign = None, None
        for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
            ex, ey, wx, wy = bx - ax, by - ay, self.x - ax, self.y - ay
            part = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
            gap = torch.hypot(wx - ex * part, wy - ey * part)
            above, below, left = self.y >= ay, self.y < by, ex * wy > ey * wx
            flip = 1.0 - 2.0 * ((above & below & left) | (~above & ~below & ~left)).float()
            nearest = gap if nearest is None else torch.minimum(nearest, gap)
            sign = flip if sign is None else sign * flip
        assert nearest is not None and sign is not None
        return sign * nearest


def _star(cx: Place, cy: Place, outer: Place, inner: Place) -> list[Point]:
    angles = [math.tau * i / 10 - math.pi / 2 for i in range(10)]
    radii = (outer, inner)
    return [(cx + radii[i % 2] * math.cos(a), cy + radii[i % 2] * math.sin(a)) for i, a in enumerate(angles)]


def _heart(c: Canvas, x: Place, y: Place, r: Place) -> Tensor:
    lobes = torch.minimum(*(c.disc(x + side * r * 0.5, y - r * 0.4, r * 0.52) for side in (-1, 1)))
    corners = [(x - r * 0.94, y - r * 0.12), (x, y + r * 0.95), (x + r * 0.94, y - r * 0.12), (x, y - r * 0.4)]
    return torch.minimum(lobes, c.polygon(corners))


_SHAPES: dict[str, Callable[[Canvas, Place, Place, Place], Tensor]] = {
    "circle": lambda c, x, y, r: c.disc(x, y, r),
    "square": lambda c, x, y, r: c.box(x, y, r * 0.9, r * 0.9),
    "triangle": lambda c, x, y, r: c.polygon([(x, y - r), (x + r, y + r * 0.8), (x - r, y + r * 0.8)]),
    "star": lambda c, x, y, r: c.polygon(_star(x, y, r * 1.1, r * 0.46)),
    "heart": _heart,
    "diamond": lambda c, x, y, r: c.polygon([(x, y - r), (x + r * 0.8, y), (x, y + r), (x - r * 0.8, y)]),
    "cross": lambda c, x, y, r: torch.minimum(c.box(x, y, r, r * 0.32), c.box(x, y, r * 0.32, r)),
    "ring": lambda c, x, y, r: c.disc(x, y, r * 0.78).abs() - r * 0.22,
}


def shape_distance(canvas: Canvas, shape: str, x: Place, y: Place, radius: Place) -> Tensor:
    """Signed distance of a shape of ``SHAPES`` centred at (x, y)."""
    return _SHAPES[shape](canvas, x, y, radius)


class _Faces:
    """Faces of one build (hair style, beard, glasses, hat or none), painted from back to front."""

    def __init__(self, canvas: Canvas, faces: Sequence[FaceScene]) -> None:
        self.canvas, self.build = canvas, faces[0]
        self.x, self.y = _column([f.x for f in faces], canvas), _column([f.y for f in faces], canvas)
        self.skins = [SKINS[f.skin] for f in faces]
        self.hairs = [HAIR_COLOURS[f.hair_colour] for f in faces]
        self.hats = [HATS[f.hat] for f in faces if f.hat]

    def draw(self) -> None:
        self._hair_back()
        self._head()
        self._features()
        if self.build.hat:
            self.canvas.paint(self.canvas.box(self.x, self.y - 0.3, 0.17, 0.11), self.hats)
            self.canvas.paint(self.canvas.box(self.x, self.y - 0.18, 0.27, 0.022), self.hats)

    def _hair_back(self) -> None:
        canvas, x, y = self.canvas, self.x, self.y
        if self.build.hair == "long":
            canvas.paint(canvas.ellipse(x, y - 0.04, 0.255, 0.265), self.hairs)
            canvas.paint(canvas.box(x, y + 0.12, 0.255, 0.18), self.hairs)
        if self.build.hair == "curly":
            for angle in map(math.radians, range(170, 371, 25)):
                curl = canvas.disc(x + 0.205 * math.cos(angle), y - 0.04 + 0.225 * math.sin(angle), 0.072)
                canvas.paint(curl, self.hairs)

    def _head(self) -> None:
        canvas, x, y = self.canvas, self.x, self.y
        canvas.paint(canvas.box(x, y + 0.26, 0.07, 0.08), self.skins)
        canvas.paint(canvas.ellipse(x, y + 0.5, 0.3, 0.19), [CLOTH])
        for side in (-1, 1):
            canvas.paint(canvas.ellipse(x + side * 0.19, y + 0.01, 0.03, 0.045), self.skins)
        face = canvas.ellipse(x, y, 0.19, 0.245)
        canvas.paint(face, self.skins)
        if self.build.hair != "bald":
            canvas.paint(torch.maximum(canvas.ellipse(x, y - 0.015, 0.2, 0.25), canvas.y - (y - 0.085)), self.hairs)
        if self.build.beard:
            canvas.paint(torch.maximum(face, y + 0.08 - canvas.y), self.hairs)

    def _features(self) -> None:
        canvas, x, y = self.canvas, self.x, self.y
        for eye in (x - 0.08, x + 0.08):
            canvas.paint(canvas.ellipse(eye, y - 0.01, 0.034, 0.022), [EYE_WHITE])
            canvas.paint(canvas.disc(eye, y - 0.01, 0.017), [FRAME])
            if self.build.glasses:
                canvas.paint(canvas.disc(eye, y - 0.01, 0.058).abs() - 0.012, [FRAME])
        if self.build.glasses:
            canvas.paint(canvas.box(x, y - 0.015, 0.025, 0.012), [FRAME])
        canvas.paint(canvas.ellipse(x, y + 0.13, 0.055, 0.018), [LIPS])


def _column(values: Sequence[float], canvas: Canvas) -> Tensor:
    return torch.tensor(values, device=canvas.x.device, dtype=torch.float32).view(-1, 1, 1)


def _build(scene: Scene) -> Hashable:
    if isinstance(scene, ShapeScene):
        return scene.shape
    return scene.hair, scene.beard, scene.glasses, scene.hat is None


def _draw_alike(scenes: Sequence[Scene], size: int, device: torch.device | str) -> Tensor:
    canvas = Canvas(size, [BACKGROUNDS[scene.background] for scene in scenes], device)
    shapes = [scene for scene in scenes if isinstance(scene, ShapeScene)]
    if shapes:
        x, y, radius = (_column([getattr(s, name) for s in shapes], canvas) for name in ("x", "y", "radius"))
        canvas.paint(shape_distance(canvas, shapes[0].shape, x, y, radius), [COLOURS[s.colour] for s in shapes])
    else:
        _Faces(canvas, [scene for scene in scenes if isinstance(scene, FaceScene)]).draw()
    return canvas.rgb


def render(scenes: Sequence[Scene], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw ``scenes``: RGB bytes (N, 3, size, size)."""
    out = torch.empty((len(scenes), 3, size, size), dtype=torch.uint8, device=device)
    alike: dict[Hashable, list[int]] = {}
    for row, scene in enumerate(scenes):
        alike.setdefault(_build(scene), []).append(row)
    chunk = max(1, TOGETHER // (size * size))
    for rows in alike.values():
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            drawn = _draw_alike([scenes[row] for row in part], size, device)
            out[torch.tensor(part, device=device)] = (drawn * 255).round().to(torch.uint8)
    return out
