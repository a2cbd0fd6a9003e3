"""Photos as references: no face, two, one in profile, two people as one, no recogniser, a broken file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("insightface", reason="the extra `identity` is not installed")

import face_models
from PIL import Image
from ryla_nodes.errors import RylaError
from ryla_nodes.identity import photos
from ryla_nodes.identity.faces import DetectedFace, FaceAnalyzer
from ryla_nodes.identity.photos import MAX_YAW, examine, examine_people, genuine, yaw


def drawn(path: Path, *seeds: int, size: int = 512, **options: object) -> Path:
    """People side by side."""
    parts = [face_models.photo(seed, size, **options) for seed in seeds]  # type: ignore[arg-type]
    Image.fromarray(np.concatenate(parts, axis=1)).save(path)
    return path


def turned(degrees: float, roll: float = 0.0) -> np.ndarray:
    """Keypoints of a head of usual proportions (millimetres: eyes 63 apart, the nose's tip 30 before them)."""
    points = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 25, 30], [-25, 55, 8], [25, 55, 8]])
    a, r = math.radians(degrees), math.radians(roll)
    across = points[:, 0] * math.cos(a) + points[:, 2] * math.sin(a)
    seen = np.stack([across, points[:, 1]], axis=1)
    return seen @ np.array([[math.cos(r), math.sin(r)], [-math.sin(r), math.cos(r)]]) * 3 + 200


@pytest.mark.parametrize("degrees", [-60, -30, 0, 15, 45, 70])
@pytest.mark.parametrize("roll", [-25, 0, 25])
def test_the_turn_of_a_head_is_read_from_its_keypoints(degrees: float, roll: float) -> None:
    assert abs(yaw(turned(degrees, roll)) - abs(degrees)) < 3


def test_one_face_is_well(tmp_path: Path) -> None:
    reference, said = examine(face_models.analyzer(), drawn(tmp_path / "a.png", 3))
    assert reference is not None and reference.embedding is not None and said == []


def test_no_face_a_tiny_one_and_no_picture_cannot_be_references(tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), (20, 90, 160)).save(tmp_path / "none.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "none.png").read_bytes()[:150])
    for name, code in (("none.png", "no_face"), ("broken.png", "unreadable_image")):
        reference, said = examine(face_models.analyzer(), tmp_path / name)
        assert reference is None and [(finding.code, finding.fatal) for finding in said] == [(code, True)]
        assert name in said[0].message


def test_two_faces_are_told(tmp_path: Path) -> None:
    reference, said = examine(face_models.analyzer(), drawn(tmp_path / "two.png", 1, 4))
    assert reference is not None and [finding.code for finding in said] == ["several_faces"]
    assert "2 faces" in said[0].message and not said[0].fatal


def test_a_face_in_profile_is_told_with_its_angle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = FaceAnalyzer.faces

    def in_profile(self: FaceAnalyzer, picture: photos.Array) -> list[DetectedFace]:
        return [DetectedFace(f.box, turned(65).astype(np.float32), f.score, f.embedding) for f in faces(self, picture)]

    monkeypatch.setattr(FaceAnalyzer, "faces", in_profile)
    _, said = examine(face_models.analyzer(), drawn(tmp_path / "side.png", 3))
    assert [finding.code for finding in said] == ["profile"]
    assert "65 degrees" in said[0].message and f"{MAX_YAW:.0f}" in said[0].message


def test_two_people_given_as_one_are_told_with_their_cosine(tmp_path: Path) -> None:
    one = [drawn(tmp_path / "a1.png", 1, face=0.5), drawn(tmp_path / "a2.png", 1, face=0.45)]
    other = drawn(tmp_path / "b.png", 4)
    usable, said = examine_people(face_models.analyzer(), {"anna": one, "mixed": [one[0], other]})
    assert [finding.code for finding in said] == ["two_people"]
    assert "mixed" in said[0].message and "a1.png and b.png" in said[0].message
    cosine = float(said[0].message.split(" is ")[1].split(" ")[0])
    assert cosine < 0.4
    same = genuine({"anna": usable["anna"]})
    assert same is not None and same > 0.4 > cosine


def test_a_broken_file_among_others_is_named_and_the_rest_used(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no picture")
    usable, said = examine_people(
        face_models.analyzer(),
        {"anna": [drawn(tmp_path / "a.png", 1), tmp_path / "b.png"], "gone": [tmp_path / "b.png"]},
    )
    assert [reference.path.name for reference in usable["anna"]] == ["a.png"] and "gone" not in usable
    assert [finding.where for finding in said] == ["b.png", "b.png"] and all(finding.fatal for finding in said)


def test_without_a_recogniser_the_photo_stays_and_what_to_install_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: FaceAnalyzer, picture: object, face: object) -> None:
        raise RylaError("missing_model", "buffalo_l-w600k_r50 is missing.", hint="ryla models install buffalo_l")

    monkeypatch.setattr(FaceAnalyzer, "scoring_embedding", missing)
    reference, said = examine(face_models.analyzer(), drawn(tmp_path / "a.png", 3))
    assert reference is not None and reference.embedding is None
    assert [finding.code for finding in said] == ["missing_model"] and "ryla models install" in said[0].message
    assert genuine({"a": [reference, reference]}) is None
