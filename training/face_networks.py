"""The small face networks: a detector with SCRFD's outputs, a recogniser with ArcFace's.

Sources: Guo et al. 2021, Sample and Computation Redistribution for Efficient Face Detection; Deng et al. 2019, ArcFace.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANCHORS = 2
"""InsightFace reads two anchors a cell; both stand at its middle, so the second repeats the first."""
EMBEDDING = 512
ALIGNED = 112
_UNLIKELY = -4.6
"""The first logit of a face, 1 in 100 (Lin et al. 2017): at first nearly all cells have none."""


class Block(nn.Module):
    """A depth-wise and a point-wise convolution with a short cut around them."""

    def __init__(self, inside: int, outside: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.short = stride == 1 and inside == outside
        self.deep = nn.Sequential(
            nn.Conv2d(inside, inside, 3, stride, dilation, dilation, groups=inside, bias=False),
            nn.BatchNorm2d(inside),
            nn.Conv2d(inside, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.deep(x)
        return x + out if self.short else out


def _stem(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Detector(nn.Module):
    """Pictures (B, 3, H, W), RGB in [-1, 1], sides multiples of 32, to (score, box, points) of each stride.

    Scores (B, n) are logits; boxes (B, n, 4) are distances from a cell's corner to left, top, right and bottom, points
    (B, n, 10) offsets from it, both in strides: as InsightFace reads them.
    """

    def __init__(self, widths: Sequence[int] = (24, 32, 64, 128, 160)) -> None:
        super().__init__()
        half, quarter, *rest = widths
        self.stem = nn.Sequential(_stem(half), Block(half, quarter, 2), Block(quarter, quarter))
        stages, heads, inside = [], [], quarter
        for width in rest:
            dilated = (Block(width, width, dilation=each) for each in (1, 2, 4))
            stages.append(nn.Sequential(Block(inside, width, 2), *dilated))
            heads.append(nn.Sequential(Block(width, width, dilation=2), Block(width, width), nn.Conv2d(width, 15, 1)))
            inside = width
        for head in heads:
            nn.init.constant_(head[-1].bias[:1], _UNLIKELY)
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, pictures: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        x, found = self.stem(pictures), []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            rows = head(x).flatten(2).transpose(1, 2)
            score, box, points = rows.split((1, 4, 10), dim=2)
            found.append((score.squeeze(2), box, points))
        return found


class Recogniser(nn.Module):
    """Aligned faces (B, 3, 112, 112), RGB in [-1, 1], to embeddings (B, 512)."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128), blocks: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [_stem(widths[0])]
        for inside, outside in pairwise(widths):
            layers += [Block(inside, outside, 2), *(Block(outside, outside) for _ in range(blocks))]
        side = ALIGNED // 2 ** len(widths)
        # Where a part of the face is matters as much as what it is: no average over places.
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 32, 1), nn.Flatten())
        self.out = nn.Sequential(nn.Linear(32 * side * side, EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING))

    def forward(self, faces: Tensor) -> Tensor:
        embedding: Tensor = self.out(self.layers(faces))
        return embedding


class DetectorFile(nn.Module):
    """The detector as its file holds it: nine flat outputs for one picture, scores between 0 and 1, cells twice."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        levels = self.detector(picture)
        scores = [score[0, :, None].sigmoid() for score, _, _ in levels]
        boxes = [box[0] for _, box, _ in levels]
        points = [points[0] for _, _, points in levels]
        return tuple(torch.repeat_interleave(each, ANCHORS, dim=0) for each in (*scores, *boxes, *points))
