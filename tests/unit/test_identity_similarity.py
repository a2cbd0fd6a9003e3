"""Statistics of likeness, and a folder of pictures judged from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("insightface", reason="the extra `identity` is not installed")

import face_models
from face_models import portrait
from ryla_nodes.errors import RylaError
from ryla_nodes.identity.evaluate import evaluate, find_people, write_contact_sheet
from ryla_nodes.identity.proportion import wilson_interval
from ryla_nodes.identity.similarity import Score, compare, cosine, summarize


def test_the_wilson_interval_of_the_textbook() -> None:
    assert wilson_interval(270, 300) == pytest.approx((0.8608, 0.9291), abs=2e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=2e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=2e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_missed_face_fails_but_does_not_pull_the_mean() -> None:
    scores = [Score("a", "1", 0.6), Score("a", "2", 0.3), Score("a", "3", None)]
    a, b = np.array([1, 0], np.float32), np.array([0.8, 0.6], np.float32)
    summary = summarize(scores, [[a, b], [a]])
    assert (summary.total, summary.passed, summary.missed) == (3, 1, 1)
    assert summary.mean == pytest.approx(0.45)
    assert summary.genuine_mean == pytest.approx(0.8)
    assert summary.relative == pytest.approx(0.5625)
    assert summarize([], []).relative is None


def test_cosine() -> None:
    a = np.array([3, 4], np.float32)
    assert cosine(a, 2 * a) == pytest.approx(1)
    assert cosine(a, -a) == pytest.approx(-1)
    assert cosine(a, 0 * a) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(2):
        home = tmp_path / "people" / f"person-{seed}"
        home.mkdir(parents=True)
        portrait(seed, 320, 320, face=0.5).save(home / "reference-1.png")
        portrait(seed, 320, 320, face=0.35, center=(0.6, 0.5)).save(home / "Reference-2.jpg")
        portrait(seed, 320, 320, face=0.45, center=(0.4, 0.5)).save(home / "same.png")
        portrait(seed + 10, 320, 320, face=0.5).save(home / "other.png")
        Image.new("RGB", (320, 320), (90, 110, 130)).save(home / "nobody.png")
    return tmp_path / "people"


def test_a_folder_is_judged(folder: Path, tmp_path: Path) -> None:
    result = evaluate(face_models.analyzer(), find_people(folder), 0.4)
    passed = {(score.person, score.output): score.passed for score in result.scores}
    assert passed["person-0", "same.png"] and passed["person-1", "same.png"]
    assert not passed["person-0", "nobody.png"] and not passed["person-0", "other.png"]
    assert result.summary.total == 6 and result.summary.missed == 2
    write_contact_sheet(result, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 192, 2 * 214)
        # The reference's face is in the first tile: warm in its middle, cool in its corner.
        red, _, blue = sheet.getpixel((96, 100))
        assert red > blue


def test_a_folder_without_references_or_pictures_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "person-0").glob("[rR]eference*"):
        path.unlink()
    for wrong in (folder, tmp_path / "absent", tmp_path):
        with pytest.raises(RylaError) as caught:
            find_people(wrong)
        assert caught.value.code == "nothing_to_evaluate"


def test_the_scoring_recogniser_is_not_the_one_that_conditions() -> None:
    analyzer = face_models.analyzer()
    photo = face_models.photo()
    face = analyzer.faces(photo)[0]
    assert abs(cosine(face.embedding, analyzer.scoring_embedding(photo, face))) < 0.2
    same, other, nobody = compare(
        analyzer, [photo], [face_models.photo(face=0.35), face_models.photo(9), np.full((300, 300, 3), 90, np.uint8)]
    )
    assert same.similarity is not None and other.similarity is not None
    assert same.similarity > 0.7 > 0.4 > other.similarity
    assert nobody.similarity is None


def test_a_picture_is_beside_the_reference_that_it_is_most_like() -> None:
    references = [face_models.photo(9), face_models.photo(3)]
    (match,) = compare(face_models.analyzer(), references, [face_models.photo(3, face=0.35)])
    assert match.reference == 1 and match.similarity is not None and match.similarity > 0.7


def ryla_face(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from ryla_nodes.cli.app import main; main()"
    return subprocess.run([sys.executable, "-c", code, "face", *arguments], capture_output=True, text=True, timeout=120)


def test_the_commands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RYLA_HOME", str(tmp_path / "home"))
    person = folder / "person-0"
    same = ryla_face("compare", str(person / "reference-1.png"), str(person / "same.png"), "--demo", "--json")
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["scores"][0]["passed"]
    other = ryla_face("compare", str(person / "reference-1.png"), str(person / "other.png"), "--demo")
    assert other.returncode == 5 and "other.png" in other.stderr
    judged = ryla_face("evaluate", str(folder), "--demo", "--json")
    summary = json.loads(judged.stdout)["summary"]
    assert (summary["total"], summary["missed"]) == (6, 2)
    monkeypatch.setenv("RYLA_VOLUME", str(tmp_path / "volume"))
    missing = ryla_face("compare", str(person / "reference-1.png"), str(person / "same.png"))
    assert missing.returncode == 3
    assert "antelopev2" in missing.stderr and "ryla models install antelopev2" in missing.stderr


def test_a_program_reads_why_cuda_is_not_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RYLA_HOME", str(tmp_path / "home"))
    photo = str(folder / "person-0" / "reference-1.png")
    asked = json.loads(ryla_face("compare", photo, photo, "--demo", "--provider", "CUDA", "--json").stdout)
    offered = "CUDAExecutionProvider" in pytest.importorskip("onnxruntime").get_available_providers()
    assert offered or "CUDA cannot be used for faces: this onnxruntime offers" in asked["warnings"][0]
    plain = json.loads(ryla_face("compare", photo, photo, "--demo", "--json").stdout)
    assert plain["warnings"] == []
