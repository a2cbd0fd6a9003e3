"""Crop and composite: the geometry is exact, and outside the mask not a bit changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ryla_nodes.identity.crop import (
    composite,
    cut,
    ellipse_mask,
    lab_to_rgb,
    match_color,
    plan_crop,
    resize,
    rgb_to_lab,
)
from ryla_nodes.identity.geometry import Affine, Box

RNG = np.random.default_rng(0)


def picture(height: int = 300, width: int = 400, seed: int = 0) -> np.ndarray:
    """Smooth colours with a little grain, as photos have."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.2, 0.8, (height // 50 + 2, width // 50 + 2, 3)).astype(np.float32)
    return np.clip(resize(coarse, width, height) + rng.normal(0, 0.01, (height, width, 3)), 0, 1).astype(np.float32)


@given(
    x=st.floats(0, 200), y=st.floats(0, 150), side=st.floats(10, 250), factor=st.floats(1.2, 5),
    size=st.sampled_from([64, 96]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_composite_changes_no_pixel_outside_the_mask(x: float, y: float, side: float, factor: float, size: int) -> None:
    base = picture(150, 200)
    face = Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    plan = plan_crop(face, 200, 150, crop_factor=factor, size=size)
    refined = RNG.random((size, size, 3)).astype(np.float32)
    result = composite(base, refined, plan)
    mask = ellipse_mask(face, 200, 150)
    assert np.array_equal(result[mask == 0], base[mask == 0])
    assert result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1


def test_the_crop_stays_in_the_picture_and_is_shifted_not_shrunk() -> None:
    plan = plan_crop(Box(0, 0, 60, 80), 400, 300, crop_factor=2.5, size=512)
    assert (plan.left, plan.top, plan.side) == (0, 0, 200)
    plan = plan_crop(Box(350, 230, 400, 300), 400, 300, crop_factor=2.0, size=512)
    assert (plan.left, plan.top, plan.side) == (260, 160, 140)


def test_a_picture_that_is_too_small_is_continued_by_reflection() -> None:
    base = picture(100, 120)
    plan = plan_crop(Box(30, 20, 90, 90), 120, 100, crop_factor=3, size=64)
    square = cut(base, plan)
    assert square.shape == (210, 210, 3)
    inside = square[-plan.top : -plan.top + 100, -plan.left : -plan.left + 120]
    assert np.array_equal(inside, base)
    assert np.array_equal(square[-plan.top - 1, -plan.left : -plan.left + 120], base[1])


def test_keypoints_follow_the_resize() -> None:
    base = np.zeros((200, 200, 3), np.float32)
    base[90:93, 120:123] = 1
    plan = plan_crop(Box(80, 60, 140, 130), 200, 200, crop_factor=1.5, size=420)
    spot = resize(cut(base, plan), 420, 420)[..., 0]
    rows, columns = np.mgrid[0:420, 0:420]
    center = np.array([(columns * spot).sum(), (rows * spot).sum()]) / spot.sum()
    assert plan.affine.points(np.array([[121, 91]], np.float32))[0] == pytest.approx(center, abs=0.05)


def test_the_affine_keeps_the_edges_of_a_box() -> None:
    assert Affine(10, 20, 2).box(Box(10, 20, 30, 60)) == Box(0, 0, 40, 80)


def test_the_mask_covers_the_face_and_fades_within_a_tenth_of_its_side() -> None:
    mask = ellipse_mask(Box(100, 80, 200, 220), 320, 300)
    assert mask[150, 150] == 1 and mask[85, 150] == 1
    row = mask[150, 200:]
    fading = np.flatnonzero((row > 0) & (row < 1))
    assert 10 <= len(fading) <= 16
    assert np.all(np.diff(row) <= 0) and row[-1] == 0


def test_an_unchanged_face_comes_back_as_it_was() -> None:
    base = picture()
    plan = plan_crop(Box(150, 100, 250, 220), 400, 300, crop_factor=2, size=480)
    result = composite(base, resize(cut(base, plan), 480, 480), plan)
    assert np.abs(result - base).max() < 0.02


def test_no_ring_is_left_around_a_face_of_another_colour_and_contrast() -> None:
    base = picture(seed=4)
    plan = plan_crop(Box(150, 90, 250, 210), 400, 300, crop_factor=2.2, size=528)
    refined = np.clip(resize(cut(base, plan), 528, 528) * [0.7, 0.95, 1.2] * 0.8 + 0.1, 0, 1).astype(np.float32)
    result = composite(base, refined, plan)
    mask = ellipse_mask(plan.face, 400, 300)
    edge = (mask > 0) & (mask < 1)

    def step(image: np.ndarray) -> float:
        across = np.abs(np.diff(image, axis=1)).mean(axis=2)
        return float(across[edge[:, 1:]].mean())

    assert step(result) <= 1.5 * step(base)
    # Without the colour match the edge shows: the check can fail.
    plain = composite(base, refined, plan, color_match=0)
    assert np.abs(plain - base)[edge].mean() > 2 * np.abs(result - base)[edge].mean()


def test_hair_that_is_another_says_nothing_about_the_colour_of_a_face() -> None:
    """What surrounds the face is in part not what it was, as a painter leaves it; the rest of it is as it was."""
    base = picture(seed=4)
    plan = plan_crop(Box(150, 90, 250, 210), 400, 300, crop_factor=2.2, size=528)
    refined = resize(cut(base, plan), 528, 528)
    hair = np.zeros(refined.shape[:2], bool)
    hair[:150] = True
    refined[hair] = [0.1, 0.15, 0.9]
    result, plain = (composite(base, refined, plan, color_match=share) for share in (1, 0))
    face = np.s_[140:180, 170:230]  # Within the mask, and below the hair.
    assert np.abs(result - plain)[face].mean() < 0.01
    # By the colours of the whole ring it would have been another: the check can fail.
    mask = ellipse_mask(plan.affine.box(plan.face), 528, 528)
    source, target = (rgb_to_lab(each).reshape(-1, 3) for each in (refined, resize(cut(base, plan), 528, 528)))
    by_all = lab_to_rgb(match_color(source, target, (mask * (1 - mask)).ravel())).reshape(refined.shape)
    assert np.abs(by_all - refined)[200:330, 190:340].mean() > 0.03


def test_lab_goes_there_and_back() -> None:
    rgb = RNG.random((40, 40, 3)).astype(np.float32)
    assert lab_to_rgb(rgb_to_lab(rgb)) == pytest.approx(rgb, abs=2e-4)
    # White, mid grey and pure red of the literature.
    known = rgb_to_lab(np.array([[1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0]], np.float32))
    assert known == pytest.approx(np.array([[100, 0, 0], [53.39, 0, 0], [53.24, 80.09, 67.2]]), abs=0.05)


def test_matched_colours_have_the_target_statistics() -> None:
    source, target = (rgb_to_lab(image).reshape(-1, 3) for image in (picture(seed=1) * 0.5 + 0.1, picture(seed=2)))
    weights = np.ones(len(source), np.float32)
    shown = rgb_to_lab(lab_to_rgb(match_color(source, target, weights)))
    assert shown.mean(axis=0) == pytest.approx(target.mean(axis=0), abs=1.0)
    assert np.array_equal(match_color(source, target, np.zeros_like(weights)), source)
