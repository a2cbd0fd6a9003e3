"""How large a part passes, and how sure that is; without numpy, for machines that only ask others for pictures."""

from __future__ import annotations

import math

THRESHOLD = 0.40
"""Least cosine of two faces of one person."""


def wilson_interval(passed: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion (95 % by default); (0, 1) for no trials."""
    if total == 0:
        return 0.0, 1.0
    rate, square = passed / total, z * z / total
    center = (rate + square / 2) / (1 + square)
    margin = z / (1 + square) * math.sqrt(rate * (1 - rate) / total + square / (4 * total))
    return max(0.0, center - margin), min(1.0, center + margin)
