"""InstantID's hint, the picture of the five keypoints, for whole batches on any device.

The same pixels as ``identity.geometry.draw_keypoints`` draws, but for keypoints that round to another pixel.
"""

from __future__ import annotations

import torch
from ryla_nodes.identity.geometry import COLORS, LIMB_BRIGHTNESS, LIMB_HALF_WIDTH, NOSE, POINT_RADIUS
from torch import Tensor


def draw_hints(points: Tensor, size: int) -> Tensor:
    """Keypoints (B, 5, 2), in pixels, on black: (B, 3, size, size) in [0, 1]."""
    steps = torch.arange(size, device=points.device, dtype=torch.float32)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    canvas = torch.zeros(len(points), 3, size, size, device=points.device)
    # Filled in, not copied from the host: that could not be captured in a CUDA graph.
    colors = torch.zeros(len(COLORS), 3, device=points.device)
    for index, color in enumerate(COLORS):
        for channel in (c for c in range(3) if color[c]):
            colors[index, channel].fill_(color[channel] / 255)
    x, y = (points[..., i, None, None] for i in range(2))
    for index in (i for i in range(len(COLORS)) if i != NOSE):
        inside = _limb(rows, columns, (x[:, index], y[:, index]), (x[:, NOSE], y[:, NOSE]))
        dim = (colors[index] * 255 * LIMB_BRIGHTNESS).floor() / 255
        canvas = torch.where(inside[:, None], dim.view(3, 1, 1), canvas)
    for index in range(len(COLORS)):
        near = (columns - x[:, index].trunc()) ** 2 + (rows - y[:, index].trunc()) ** 2 <= POINT_RADIUS**2
        canvas = torch.where(near[:, None], colors[index].view(3, 1, 1), canvas)
    return canvas


def _limb(rows: Tensor, columns: Tensor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """Pixels (B, size, size) of the ellipse that spans ``start`` to ``end``, each x and y (B, 1, 1)."""
    (x0, y0), (x1, y1) = start, end
    half_length = (torch.hypot(x0 - x1, y0 - y1) / 2).trunc()
    angle = torch.atan2(y0 - y1, x0 - x1)
    dx, dy = columns - ((x0 + x1) / 2).trunc(), rows - ((y0 + y1) / 2).trunc()
    along = dx * angle.cos() + dy * angle.sin()
    across = dy * angle.cos() - dx * angle.sin()
    return (along / half_length.clamp(min=1)) ** 2 + (across / LIMB_HALF_WIDTH) ** 2 <= 1
