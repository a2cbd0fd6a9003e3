"""Cut a square around a face, and put the re-rendered one back, matched in colour; outside the mask nothing changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry import Affine, Array, Box

ELLIPSE_SCALE = 1.15 * 1.06
FEATHER = 0.10
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    np.float32,
)
_XYZ_TO_RGB = np.linalg.inv(_RGB_TO_XYZ)
_WHITE = np.array([0.95047, 1.0, 1.08883], np.float32)  # D65.
_DELTA = 6 / 29
_MAX_GAIN = 1.1
_SAME = 6.0
"""How far apart, in Lab, two pictures of the same thing are, beside what they differ by as a whole."""


@dataclass(frozen=True)
class FaceCrop:
    """A square of the picture, as sampled at ``size`` x ``size``.

    ``left`` and ``top`` are negative when the picture is smaller than the square: it is then continued by reflection.
    ``face`` is the detector's box in the picture.
    """

    left: int
    top: int
    side: int
    size: int
    face: Box

    @property
    def affine(self) -> Affine:
        return Affine(self.left, self.top, self.size / self.side)


def plan_crop(face: Box, width: int, height: int, *, crop_factor: float, size: int) -> FaceCrop:
    """The square of side ``crop_factor`` x the face's longer side, centred on it, shifted to stay in the picture."""
    side = max(1, round(crop_factor * face.side))
    x, y = face.center
    return FaceCrop(_place(x, side, width), _place(y, side, height), side, size, face)


def _place(center: float, side: int, length: int) -> int:
    if side >= length:
        return (length - side) // 2
    return int(np.clip(round(center - side / 2), 0, length - side))


def cut(picture: Array, crop: FaceCrop) -> Array:
    """The crop at the picture's own resolution: (side, side, 3)."""
    rows = _reflect(crop.top, crop.side, picture.shape[0])
    columns = _reflect(crop.left, crop.side, picture.shape[1])
    return picture[rows[:, None], columns[None, :]]


def _reflect(start: int, count: int, length: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Indices start..start+count, mirrored at both ends without repeating the edge pixel."""
    period = max(1, 2 * (length - 1))
    index = np.abs(np.arange(start, start + count)) % period
    return np.minimum(index, period - index).astype(np.intp) if length > 1 else np.zeros(count, np.intp)


def resize(picture: Array, width: int, height: int) -> Array:
    """Lanczos in float32, clipped to [0, 1]; (H, W, C) or (H, W)."""
    from PIL import Image

    if picture.ndim == 2:
        return resize(picture[..., None], width, height)[..., 0]
    planes = [
        Image.fromarray(np.ascontiguousarray(picture[..., channel], np.float32)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        for channel in range(picture.shape[2])
    ]
    return np.clip(np.stack([np.asarray(plane, np.float32) for plane in planes], axis=-1), 0, 1)


def ellipse_mask(face: Box, width: int, height: int) -> Array:
    """Soft ellipse over the face and forehead, (height, width) in [0, 1].

    The radii are the box's half sides x 1.15, grown by 6 %; the edge falls from 1 to 0 (smoothstep) over 10 % of the
    box's longer side, centred on the ellipse. It is exactly 0 outside.
    """
    (x, y), feather = face.center, max(FEATHER * face.side, 1e-3)
    rx, ry = face.width / 2 * ELLIPSE_SCALE, face.height / 2 * ELLIPSE_SCALE
    dx = (np.arange(width, dtype=np.float32) + 0.5 - x)[None, :]
    dy = (np.arange(height, dtype=np.float32) + 0.5 - y)[:, None]
    radius = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
    # First-order distance to the ellipse: f / |grad f|.
    slope = np.sqrt((dx / rx**2) ** 2 + (dy / ry**2) ** 2) / np.maximum(radius, 1e-6)
    distance = (radius - 1) / np.maximum(slope, 1e-6)
    inside = np.clip(0.5 - distance / feather, 0, 1)
    return np.asarray(inside * inside * (3 - 2 * inside), np.float32)


def composite(picture: Array, refined: Array, crop: FaceCrop, *, color_match: float = 1.0) -> Array:
    """Blend ``refined`` (any square size) back into ``picture`` (H, W, 3), both sRGB in [0, 1].

    The refined face takes the colours that the picture has in the mask's soft ring, where both show the same there: a
    ring of hair against a ring of sky says nothing about the light. Every pixel whose mask is 0 is returned bit for
    bit.
    """
    original = cut(picture, crop)
    face = resize(refined, crop.side, crop.side)
    mask = ellipse_mask(Affine(crop.left, crop.top, 1).box(crop.face), crop.side, crop.side)
    top, left = max(crop.top, 0), max(crop.left, 0)
    bottom = min(crop.top + crop.side, picture.shape[0])
    right = min(crop.left + crop.side, picture.shape[1])
    window = np.s_[top - crop.top : bottom - crop.top, left - crop.left : right - crop.left]
    original, face, mask = original[window], face[window], mask[window]
    changed: NDArray[np.bool_] = mask > 0
    before, share = original[changed], mask[changed]
    after = _in_its_light(face[changed], before, share, color_match)
    result = picture.copy()
    result[top:bottom, left:right][changed] = np.clip(before + (after - before) * share[:, None], 0, 1)
    return np.asarray(result, np.float32)


def _in_its_light(face: Array, original: Array, mask: Array, color_match: float) -> Array:
    """Pixels (N, 3) of a face in the colours that those of the picture have in the soft ring of ``mask`` (N,)."""
    if color_match <= 0:
        return face
    source, wanted = rgb_to_lab(face), rgb_to_lab(original)
    ring = mask * (1 - mask)
    return lab_to_rgb(match_color(source, wanted, ring * agreement(source, wanted, ring), color_match))


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
    linear = np.clip(xyz @ _XYZ_TO_RGB.T, 0, 1)
    rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.clip(rgb, 0, 1), np.float32)


def agreement(source: Array, target: Array, weights: Array) -> Array:
    """How far pixels (N, 3) of two pictures, in Lab, show the same thing: (N,) in (0, 1].

    1 / (1 + (d / 6)^2)^2, where d is their distance once the pictures' median difference where ``weights`` (N,) are
    not 0 is taken off: a cast over all of one of them is no disagreement.
    """
    apart = target - source
    counted = weights > 0
    if counted.any():
        apart = apart - np.median(apart[counted], axis=0)
    return np.asarray(1 / (1 + np.square(apart).sum(axis=-1) / _SAME**2) ** 2, np.float32)


def match_color(source: Array, target: Array, weights: Array, strength: float = 1.0) -> Array:
    """Shift and scale pixels (N, 3) in Lab so that their mean and deviation under ``weights`` become ``target``'s.

    Args:
        source, target: of two pictures, at the same places.
        weights: (N,), non-negative; nothing changes when they sum to 0.
        strength: 0 leaves the pixels as they are, 1 matches fully.
    """
    total = float(weights.sum())
    if total <= 0 or strength <= 0:
        return source
    share = (weights / total)[:, None]
    (mean, deviation), (wanted_mean, wanted_deviation) = _statistics(source, share), _statistics(target, share)
    # The gain is small: what surrounds a face says little about the contrast within it.
    gain = np.clip(wanted_deviation / np.maximum(deviation, 1e-3), 1 / _MAX_GAIN, _MAX_GAIN)
    matched = (source - mean) * gain + wanted_mean
    return np.asarray(source + (matched - source) * strength, np.float32)


def _statistics(lab: Array, share: Array) -> tuple[Array, Array]:
    mean = (lab * share).sum(axis=0)
    return mean, np.sqrt(((lab - mean) ** 2 * share).sum(axis=0))
