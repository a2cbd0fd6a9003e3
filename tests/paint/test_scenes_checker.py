"""The checker reads the generator's own drawings: what it says of a painted picture can then be believed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from training.captions import caption
from training.checker import FaceReading, read_face, read_shape
from training.render import render
from training.scenes import FaceScene, Scene, ShapeScene, random_face, random_scene, random_shape

SHAPE_PARTS = ("shape", "colour", "size", "row", "column", "background")
FACE_PARTS = ("skin", "hair", "hair_colour", "glasses", "beard", "hat", "background")


def _pictures(scenes: list[Scene], size: int) -> np.ndarray:
    return render(scenes, size).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", [128, 256])
def test_shapes_are_read_as_they_were_drawn(size: int) -> None:
    rng = random.Random(size)
    scenes = [random_shape(rng) for _ in range(200)]
    readings = [read_shape(picture) for picture in _pictures(list(scenes), size)]
    for part in SHAPE_PARTS:
        right = sum(getattr(s, part) == getattr(r, part) for s, r in zip(scenes, readings, strict=True))
        assert right / len(scenes) >= 0.99, part


@pytest.mark.parametrize("size", [128, 256])
def test_faces_are_read_as_they_were_drawn(size: int) -> None:
    rng = random.Random(size)
    scenes = [random_face(rng) for _ in range(200)]
    readings = [read_face(picture) for picture in _pictures(list(scenes), size)]
    for part in FACE_PARTS:
        right = sum(_wanted(s, part) == getattr(r, part) for s, r in zip(scenes, readings, strict=True))
        assert right / len(scenes) >= 0.99, part


def _wanted(scene: FaceScene, part: str) -> object:
    hairless = scene.hair == "bald" and not scene.beard
    return None if part == "hair_colour" and hairless else getattr(scene, part)


def test_noise_shows_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert read_face(noise) == FaceReading(False)
    assert not read_shape(np.full((128, 128, 3), 200, np.uint8)).found


def test_every_attribute_of_a_complete_caption_is_in_its_words() -> None:
    rng = random.Random(3)
    for _ in range(300):
        scene = random_scene(rng, held_out=False)
        words = caption(scene, rng, complete=True)
        if isinstance(scene, ShapeScene):
            assert scene.shape in words and f" {scene.colour} " in words and scene.background in words
        else:
            assert f"{scene.skin} skin" in words and (scene.hair in words or scene.hair == "bald")
            assert ("no glasses" in words or "bare eyes" in words) != scene.glasses


def test_held_out_combinations_are_a_fixed_share_and_apart() -> None:
    rng = random.Random(4)
    scenes = [random_shape(rng) for _ in range(4000)]
    held = {(s.shape, s.colour, s.row, s.column) for s in scenes if s.held_out}
    seen = {(s.shape, s.colour, s.row, s.column) for s in scenes if not s.held_out}
    assert not held & seen
    assert 0.10 < len(held) / (len(held) + len(seen)) < 0.20
