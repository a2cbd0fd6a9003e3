"""Colour statistics in CIE L*a*b* (D65): match one picture's mean and spread to another's."""

from __future__ import annotations

import numpy as np

from .geometry import Array

_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_DELTA = 6 / 29
_MAX_GAIN = 1.5


def rgb_to_lab(rgb: Array) -> Array:
    """sRGB in [0, 1] (..., 3) -> L* in [0, 100], a*, b* (CIE 15, sRGB of IEC 61966-2-1)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((np.maximum(rgb, 0.0) + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _WHITE
    f = np.where(xyz > _DELTA**3, np.cbrt(xyz), xyz / (3 * _DELTA**2) + 4 / 29)
    lab = np.stack((116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])), axis=-1)
    return np.asarray(lab, np.float32)


def lab_to_rgb(lab: Array) -> Array:
    """The inverse of ``rgb_to_lab``, clipped to [0, 1]."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack((fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200), axis=-1)
    xyz = np.where(f > _DELTA, f**3, 3 * _DELTA**2 * (f - 4 / 29)) * _WHITE
    linear = np.clip(xyz @ np.linalg.inv(_RGB_TO_XYZ).T, 0, 1)
    rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.clip(rgb, 0, 1), np.float32)


def match_color(picture: Array, target: Array, weights: Array, strength: float = 1.0) -> Array:
    """Shift and scale ``picture`` in Lab so that its mean and deviation under ``weights`` become ``target``'s.

    Args:
        picture, target: sRGB (H, W, 3) in [0, 1].
        weights: (H, W), non-negative; nothing changes when they sum to 0.
        strength: 0 leaves the picture as it is, 1 matches fully.
    """
    total = float(weights.sum())
    if total <= 0 or strength <= 0:
        return picture
    share = (weights / total)[..., None]
    source, wanted = rgb_to_lab(picture), rgb_to_lab(target)
    (mean, deviation), (wanted_mean, wanted_deviation) = _statistics(source, share), _statistics(wanted, share)
    # The gain is bounded: a flat ring (studio background) says nothing about the contrast of a face.
    gain = np.clip(wanted_deviation / np.maximum(deviation, 1e-3), 1 / _MAX_GAIN, _MAX_GAIN)
    matched = (source - mean) * gain + wanted_mean
    return lab_to_rgb(np.asarray(source + (matched - source) * strength, np.float32))


def _statistics(lab: Array, share: Array) -> tuple[Array, Array]:
    mean = (lab * share).sum(axis=(0, 1))
    return mean, np.sqrt(((lab - mean) ** 2 * share).sum(axis=(0, 1)))
