"""InsightFace itself, on the shipped ONNX files of antelopev2's interfaces and drawn people."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("insightface", reason="the extra `identity` is not installed")

import face_models
from PIL import Image
from ryla_nodes.errors import RylaError
from ryla_nodes.identity import runtime
from ryla_nodes.identity.face_file import FaceIdentity, load_face, save_face
from ryla_nodes.identity.faces import FaceAnalyzer, select_face
from ryla_nodes.identity.similarity import cosine
from ryla_nodes.models import identity_files

NOBODY = np.full((400, 400, 3), 100, np.uint8)


@pytest.mark.parametrize(
    ("face", "center"), [(0.5, (0.5, 0.5)), (0.3, (0.3, 0.6)), (0.2, (0.8, 0.3)), (0.6, (0.5, 0.5))]
)
def test_a_face_is_found_where_it_was_drawn(face: float, center: tuple[float, float]) -> None:
    found = face_models.analyzer().faces(face_models.photo(2, 640, face=face, center=center))
    assert found
    error = np.abs(found[0].keypoints - face_models.true_keypoints(640, face, center, seed=2)).max()
    assert error < 0.06 * face * 640
    assert found[0].embedding.shape == (512,)


def test_the_embedding_is_raw_and_tells_people_apart() -> None:
    analyzer = face_models.analyzer()
    one, again, other = (
        analyzer.faces(face_models.photo(seed, face=size))[0].embedding for seed, size in ((3, 0.5), (3, 0.4), (8, 0.5))
    )
    assert np.linalg.norm(one) > 5
    assert cosine(one, again) > 0.7 > cosine(one, other)


def test_a_huge_photo_gives_the_same_identity() -> None:
    analyzer = face_models.analyzer()
    drawn = Image.fromarray(face_models.photo(3, 800))
    small, large = (analyzer.faces(np.asarray(drawn.resize((side, side))))[0] for side in (800, 6000))
    assert cosine(small.embedding, large.embedding) > 0.97
    assert large.box.side == pytest.approx(small.box.side * 7.5, rel=0.02)


def test_a_face_that_is_missed_is_looked_for_at_smaller_detector_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer = face_models.analyzer()
    detector = analyzer._app.det_model
    detect, tried = detector.detect, []

    def near_sighted(picture: np.ndarray, input_size: tuple[int, int]) -> object:
        tried.append(input_size)
        seen = picture if input_size[0] <= 320 else np.zeros_like(picture)
        return detect(seen, input_size=input_size)

    monkeypatch.setattr(detector, "detect", near_sighted)
    assert len(analyzer.faces(face_models.photo(5, 600))) == 1
    assert tried == [(size, size) for size in (640, 512, 448, 384, 320)]
    # Not only asked for: a session of that input size has run.
    assert (320, 320) in detector.resolution_session_input_sizes


def test_the_same_photo_is_analysed_once() -> None:
    analyzer = face_models.analyzer()
    photo = face_models.photo()
    assert analyzer.faces(photo) == analyzer.faces(photo.copy())
    assert analyzer.runs == 1


def two_faces() -> np.ndarray:
    picture = np.concatenate([face_models.photo(1, 512, face=0.3), face_models.photo(2, 512, face=0.5)], axis=1)
    return np.ascontiguousarray(picture)


def test_of_two_faces_the_largest_or_the_one_that_is_named() -> None:
    faces = face_models.analyzer().faces(two_faces())
    assert len(faces) == 2
    largest = select_face(faces, order="size", index=0, where="it")
    left = select_face(faces, order="left-to-right", index=0, where="it")
    assert largest.box.left > 512 > left.box.left
    assert select_face(faces, order="size", index=1, where="it") is left
    with pytest.raises(RylaError, match="has 2") as caught:
        select_face(faces, order="size", index=2, where="it")
    assert caught.value.code == "face_index"


def test_no_face_and_a_tiny_face_are_refused_with_what_is_wrong() -> None:
    analyzer = face_models.analyzer()
    with pytest.raises(RylaError) as caught:
        select_face(analyzer.faces(NOBODY), order="size", index=0, where="ref.jpg")
    assert caught.value.code == "no_face" and "ref.jpg" in caught.value.message
    tiny = face_models.photo(3, 200, face=0.2)
    with pytest.raises(RylaError, match=r"\d+ x [34]\d px; at least 64 px") as caught:
        select_face(analyzer.faces(tiny), order="size", index=0, where="it")
    assert caught.value.code == "face_too_small"


def test_a_face_at_the_border_is_found() -> None:
    found = face_models.analyzer().faces(face_models.photo(3, 640, face=0.4, center=(0.14, 0.8)))
    assert found and found[0].box.bottom > 630


@pytest.mark.parametrize("layout", ["models/antelopev2", "antelopev2", "models/antelopev2/antelopev2"])
def test_the_pack_is_found_flat_and_nested(tmp_path: Path, layout: str) -> None:
    shutil.copytree(face_models.insightface_folder() / "models/antelopev2", tmp_path / layout)
    found = identity_files.find_pack([tmp_path / "elsewhere", tmp_path])
    assert found == tmp_path / layout
    assert FaceAnalyzer(found, "CPU").faces(face_models.photo())


def test_a_missing_pack_names_the_folders_and_a_missing_file_the_file(tmp_path: Path) -> None:
    with pytest.raises(RylaError, match=str(tmp_path)) as caught:
        identity_files.find_pack([tmp_path])
    assert caught.value.code == "missing_model"
    shutil.copytree(face_models.insightface_folder() / "models", tmp_path / "models")
    (tmp_path / "models/antelopev2/glintr100.onnx").unlink()
    for unused in ("2d106det.onnx", "genderage.onnx"):
        (tmp_path / "models/antelopev2" / unused).touch()
    with pytest.raises(RylaError, match=r"antelopev2 lacks glintr100\.onnx \(1k3d68\.onnx too, but"):
        identity_files.find_pack([tmp_path])
    (tmp_path / "models/buffalo_l/w600k_r50.onnx").unlink()
    with pytest.raises(RylaError, match="w600k_r50"):
        identity_files.find_scorer([tmp_path])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    shutil.copytree(face_models.insightface_folder() / "models/antelopev2", tmp_path / "antelopev2")
    path = tmp_path / "antelopev2/glintr100.onnx"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RylaError, match="antelopev2") as caught:
        FaceAnalyzer(tmp_path / "antelopev2", "CPU")
    assert caught.value.code == "unreadable_model"


@pytest.mark.parametrize("fault", ["absent", "raises", "silent"])
def test_a_broken_cuda_provider_falls_back_to_the_cpu_with_one_line(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    import insightface.app
    import onnxruntime

    folder = shutil.copytree(face_models.insightface_folder() / "models/antelopev2", tmp_path / "antelopev2")
    if fault != "absent":
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    real = insightface.app.FaceAnalysis

    def broken(*, providers: list[str], **options: object) -> object:
        if "CUDAExecutionProvider" in providers and fault == "raises":
            raise RuntimeError("CUDA driver version is insufficient")
        # As onnxruntime does when a library of the provider cannot be loaded: a session on the CPU, and no exception.
        return real(providers=["CPUExecutionProvider"], **options)

    monkeypatch.setattr(insightface.app, "FaceAnalysis", broken)
    with caplog.at_level(logging.WARNING, "ryla_nodes"):
        analyzer = FaceAnalyzer(folder, "CUDA")
    assert analyzer.faces(face_models.photo())
    assert len([record for record in caplog.records if "CUDA" in record.message]) == 1
    # The reason is kept for the report, not only that it failed.
    why = {"absent": "onnxruntime-gpu has CUDA", "raises": "CUDA driver version is insufficient", "silent": ".so"}
    assert why[fault] in analyzer.remark and analyzer.remark in caplog.text
    assert FaceAnalyzer(folder, "CPU").remark == ""


def test_an_old_or_absent_insightface_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace(__version__="0.7.3"))
    with pytest.raises(RylaError, match="too old") as caught:
        runtime._check_insightface()
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(RylaError) as caught:
        runtime._check_insightface()
    assert "pip install" in caught.value.hint


def test_several_photos_are_averaged_or_kept_apart() -> None:
    raw = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    mean, concat = FaceIdentity(raw, "mean"), FaceIdentity(raw, "concat")
    assert mean.vectors.shape == (1, 1, 512) and concat.vectors.shape == (1, 3, 512)
    assert mean.vectors[0, 0] == pytest.approx(raw.mean(axis=0), abs=1e-6)
    assert mean.digest != concat.digest == FaceIdentity(raw.copy(), "concat").digest


def test_a_face_is_saved_and_loaded(tmp_path: Path) -> None:
    face = FaceIdentity(np.random.default_rng(0).standard_normal((2, 512)).astype(np.float32), "concat")
    save_face(face, tmp_path / "maya.safetensors")
    loaded = load_face(tmp_path / "maya.safetensors")
    assert np.array_equal(loaded.embeddings, face.embeddings) and loaded.combine == "concat"
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name in ("junk.safetensors", "absent.safetensors"):
        with pytest.raises(RylaError) as caught:
            load_face(tmp_path / name)
        assert caught.value.code == "unreadable_face"
