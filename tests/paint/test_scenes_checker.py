"""The checker reads the generator's own drawings: what it says of a painted picture can then be believed."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.captions import caption
from training.checker import FaceReading, largest_component, read_face, read_shape
from training.render import render
from training.scenes import FaceScene, Scene, ShapeScene, random_face, random_scene, random_shape

SHAPE_PARTS = ("shape", "colour", "size", "row", "column", "background")
FACE_PARTS = ("skin", "hair", "hair_colour", "glasses", "beard", "hat", "background")


COUNTS = {128: 200, 256: 200, 512: 100}


def _worn(picture: np.ndarray) -> np.ndarray:
    """What an autoencoder, a sampler and a file may do to a picture: blur, noise, JPEG."""
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.8)), np.float64)
    noise = np.random.default_rng(picture.sum()).normal(0, 6, picture.shape)
    file = io.BytesIO()
    Image.fromarray((blurred + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


LOOKS = (np.asarray, _worn)


def _pictures(scenes: Sequence[Scene], size: int) -> np.ndarray:
    return render(scenes, size).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", COUNTS)
def test_shapes_are_read_as_they_were_drawn(size: int) -> None:
    rng = random.Random(size)
    scenes = [random_shape(rng) for _ in range(COUNTS[size])]
    pictures = _pictures(scenes, size)
    for look in LOOKS:
        readings = [read_shape(look(picture)) for picture in pictures]
        for part in SHAPE_PARTS:
            right = sum(getattr(s, part) == getattr(r, part) for s, r in zip(scenes, readings, strict=True))
            assert right / len(scenes) >= 0.99, (part, look)


@pytest.mark.parametrize("size", COUNTS)
def test_faces_are_read_as_they_were_drawn(size: int) -> None:
    rng = random.Random(size)
    scenes = [random_face(rng) for _ in range(COUNTS[size])]
    pictures = _pictures(scenes, size)
    for look in LOOKS:
        readings = [read_face(look(picture)) for picture in pictures]
        for part in FACE_PARTS:
            right = sum(_wanted(s, part) == getattr(r, part) for s, r in zip(scenes, readings, strict=True))
            assert right / len(scenes) >= 0.99, (part, look)


def _wanted(scene: FaceScene, part: str) -> object:
    hairless = scene.hair == "bald" and not scene.beard
    return None if part == "hair_colour" and hairless else getattr(scene, part)


def test_noise_shows_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert read_face(noise) == FaceReading(False)
    assert not read_shape(np.full((128, 128, 3), 200, np.uint8)).found


def test_the_largest_component_is_joined_by_edges_not_by_corners() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 1], [1, 0, 0, 0]], bool)
    assert (largest_component(mask) == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]).all()
    assert not largest_component(np.zeros((3, 3), bool)).any()
    assert largest_component(np.ones((3, 3), bool)).all()


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
