"""The keypoint picture, beside OpenCV's drawing of the reference pipeline."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ryla_nodes.identity.geometry import COLORS, draw_keypoints, place_keypoints

POINTS = np.array([[400.4, 380.2], [610.7, 372.9], [512.3, 500.1], [430.2, 610.8], [600.5, 602.6]], np.float32)


def reference(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """The recipe of the research notes in OpenCV: half width 4, brightness 0.6, then circles of 10 at full colour."""
    cv2 = pytest.importorskip("cv2")
    canvas = np.zeros((height, width, 3), np.uint8)
    for index in (0, 1, 3, 4):
        (x0, y0), (x1, y1) = points[index], points[2]
        angle = int(math.degrees(math.atan2(y0 - y1, x0 - x1)))
        axes = (int(math.hypot(x0 - x1, y0 - y1) / 2), 4)
        polygon = cv2.ellipse2Poly((int((x0 + x1) / 2), int((y0 + y1) / 2)), axes, angle, 0, 360, 1)
        cv2.fillConvexPoly(canvas, polygon, COLORS[index])
    canvas = (canvas * 0.6).astype(np.uint8)
    for (x, y), color in zip(points, COLORS, strict=True):
        cv2.circle(canvas, (int(x), int(y)), 10, color, -1)
    return canvas


def test_it_is_the_picture_that_the_control_net_was_trained_on() -> None:
    ours, theirs = draw_keypoints(POINTS, 1016, 1016), reference(POINTS, 1016, 1016)
    drawn = (theirs > 0).any(axis=2)
    different = (ours.astype(int) != theirs).any(axis=2)
    # Only rims differ: OpenCV rounds the angle to whole degrees and its circles to 4-connected outlines.
    assert different.sum() < 0.1 * drawn.sum()
    for (x, y), color in zip(POINTS, COLORS, strict=True):
        assert tuple(ours[int(y), int(x)]) == color


def test_points_at_and_beyond_the_border_are_drawn_as_far_as_they_show() -> None:
    image = draw_keypoints(POINTS - [400, 380], 256, 320)
    assert image.shape == (320, 256, 3)
    assert tuple(image[0, 0]) == COLORS[0]


def test_a_pose_is_placed_where_it_is_wanted_and_keeps_its_shape() -> None:
    placed = place_keypoints(POINTS, 832, 1216, face_height=0.3, center=(0.4, 0.35))
    middle = (placed[:2].mean(axis=0) + placed[3:].mean(axis=0)) / 2
    assert middle == pytest.approx([0.4 * 832, 0.35 * 1216], abs=0.01)
    scale = np.linalg.norm(placed[0] - placed[1]) / np.linalg.norm(POINTS[0] - POINTS[1])
    assert placed - middle == pytest.approx((POINTS - (POINTS[:2].mean(0) + POINTS[3:].mean(0)) / 2) * scale, abs=0.01)
