"""The people that come with the package: drawn by the training's own code, held out, and told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ryla_nodes.acceptance import people
from ryla_nodes.identity import demo_people

from training import demo_people as drawing
from training.people import HELD_OUT

NAMES = (*demo_people.REFERENCES, *demo_people.OUTPUTS)


def test_the_package_has_the_pictures_that_are_drawn_here() -> None:
    """Every fifth: WebP keeps them to a few levels, and another version of it may encode otherwise."""
    assert {path.name for path in demo_people.FOLDER.iterdir()} == {
        demo_people.file(person, name).name for person in range(demo_people.COUNT) for name in NAMES
    }
    assert drawing.FIRST + demo_people.COUNT <= HELD_OUT
    for person in range(0, demo_people.COUNT, 5):
        for name, drawn in zip(NAMES, drawing.pictures_of(person), strict=True):
            with Image.open(demo_people.file(person, name)) as image:
                kept = np.asarray(image.convert("RGB"), np.int16)
            assert np.abs(kept - drawn.permute(1, 2, 0).numpy()).mean() < 2, (person, name)


def test_an_acceptance_run_gets_four_of_them_as_png_once(tmp_path: Path) -> None:
    found = people.drawn(tmp_path)
    assert [len(paths) for paths in found.values()] == [2] * 4
    states = {path: path.stat().st_mtime_ns for paths in found.values() for path in paths}
    for path in states:
        with Image.open(path) as image:
            assert image.format == "PNG" and image.size == (drawing.SIZE, drawing.SIZE)
    assert people.drawn(tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in states} == states


def test_the_small_face_models_know_each_of_them(tmp_path: Path) -> None:
    pytest.importorskip("insightface", reason="the extra `identity` is not installed")
    import face_models
    from ryla_nodes.identity import photos

    usable, said = photos.examine_people(face_models.analyzer(), people.drawn(tmp_path))
    assert len(usable) == 4 and said == []
    genuine = photos.genuine(usable)
    assert genuine is not None and genuine > 0.5
