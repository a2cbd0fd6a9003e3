"""Both InstantID workflows from end to end on the embedded engine, with the models that come with the package."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("insightface", reason="the extra `identity` is not installed")

import torch
from face_models import photo as drawn
from face_models import portrait
from ryla_nodes import settings
from ryla_nodes.engines.embedded.inference.instantid import IdentityProcessor
from ryla_nodes.engines.embedded.inference.sdxl import SdxlText
from ryla_nodes.engines.embedded.server.server import EngineServer
from ryla_nodes.engines.protocol import current_engine, running_in
from ryla_nodes.errors import RylaError
from ryla_nodes.identity import adapter as adapters
from ryla_nodes.identity import faces as analysis
from ryla_nodes.identity.face_file import FaceIdentity
from ryla_nodes.models import shipped
from ryla_nodes.nodes import node_classes
from ryla_nodes.nodes.face import FaceAnalyzer, FaceEmbed, FaceKeypoints, FaceSimilarity
from ryla_nodes.nodes.face_crop import FaceComposite, FaceCrop
from ryla_nodes.nodes.face_files import LoadFace, SaveFace
from ryla_nodes.nodes.instantid import ApplyInstantID, InstantIDLoader, SDXLLoader
from ryla_nodes.workflows.manifest import load
from ryla_nodes.workflows.workflow import bind

SMALL = {"flux-instantid": {"width": 256, "height": 256, "steps": 4, "face_steps": 4, "face_pixels": 256},
         "sdxl-instantid": {"width": 256, "height": 256, "steps": 4}}  # fmt: skip
# What the engine's own models know: of words that their captions lack they make no face.
PROMPT = "a portrait of a person, tan skin, short black hair, no glasses, no beard, no hat, mint background"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    with EngineServer(tmp_path_factory.mktemp("home"), node_classes()) as running:
        yield running


@pytest.fixture
def inside(engine: EngineServer) -> Iterator[None]:
    """Nodes that the test calls itself run in the engine."""
    with running_in(engine.engine):
        yield


def image(seed: int = 3, size: int = 320, **options: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(drawn(seed, size, **options), np.float32) / 255)[None]


def graph(name: str, photo: Path, engine: EngineServer, **values: Any) -> dict[str, Any]:
    """The shipped workflow, small, with ``photo`` in the engine's input folder."""
    (engine.files.folder("input") / photo.name).write_bytes(photo.read_bytes())
    known = {key for p in load(name, settings.load({})).parameters for key in (p.name,)}
    wanted = {"prompt": PROMPT, "reference_image": photo, "seed": 1, **SMALL[name], **values}
    bound = bind(load(name, settings.load({})), {key: value for key, value in wanted.items() if key in known})
    for upload in bound.uploads:
        bound = bound.with_image(upload.node_id, upload.input, photo.name)
    return bound.graph


def run(engine: EngineServer, prompt: dict[str, Any]) -> dict[str, Any]:
    """Run a prompt: its history entry."""
    answer = httpx.post(f"{engine.url}/prompt", json={"prompt": prompt}, timeout=60)
    assert answer.status_code == 200, answer.text
    prompt_id = answer.json()["prompt_id"]
    for _ in range(600):
        history = httpx.get(f"{engine.url}/history/{prompt_id}", timeout=60).json()
        if prompt_id in history:
            return dict(history[prompt_id])
        time.sleep(0.1)
    raise AssertionError("the job did not end")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    portrait(3, 320, 320, face=0.5).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_workflow_makes_a_picture_and_records_the_likeness(name: str, engine: EngineServer, photo: Path) -> None:
    entry = run(engine, graph(name, photo, engine))
    assert entry["status"]["status_str"] == "success", entry["status"]
    outputs = list(entry["outputs"].values())
    pictures = [image for output in outputs for image in output.get("images", ())]
    [saved] = pictures  # Pictures of what was found are an editor's, and this engine has none.
    assert saved["type"] == "output" and not list(engine.files.temp.iterdir())
    picture = Image.open(io.BytesIO(httpx.get(f"{engine.url}/view", params=saved).content))
    assert picture.size == (256, 256) and picture.format == "JPEG"
    assert np.asarray(picture).std() > 20
    score = next(output for output in outputs if "face_similarity" in output)
    assert -1 <= score["face_similarity"][0] <= 1
    assert score["face_passed"] == [score["face_similarity"][0] >= 0.4]


def test_the_face_is_rendered_by_what_the_prompt_says_and_its_own_words_behind_it(
    engine: EngineServer, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Glasses that the prompt asks for were gone when SDXL was told of a face alone."""
    told: list[str] = []
    tokenize = SdxlText.tokenize
    monkeypatch.setattr(SdxlText, "tokenize", lambda self, prompt: told.append(prompt) or tokenize(self, prompt))
    entry = run(engine, graph("flux-instantid", photo, engine, face_prompt="smiling"))
    assert entry["status"]["status_str"] == "success" and f"{PROMPT}, smiling" in told


def test_a_second_run_with_the_same_photo_analyses_nothing_and_resamples_nothing(
    engine: EngineServer, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"analyses": 0, "resampler": 0}
    analyze, compute = analysis.FaceAnalyzer._analyze, adapters.Adapter._compute

    def counted_analyze(self: Any, picture: Any) -> Any:
        counts["analyses"] += 1
        return analyze(self, picture)

    def counted_compute(self: Any, *arguments: Any) -> Any:
        counts["resampler"] += 1
        return compute(self, *arguments)

    monkeypatch.setattr(analysis.FaceAnalyzer, "_analyze", counted_analyze)
    monkeypatch.setattr(adapters.Adapter, "_compute", counted_compute)
    portrait(7, 320, 320, face=0.5).save(photo)
    first = graph("sdxl-instantid", photo, engine)
    assert run(engine, first)["status"]["status_str"] == "success"
    assert counts == {"analyses": 2, "resampler": 1}  # The photo, and the picture that was made of it.
    again = graph("sdxl-instantid", photo, engine, instantid_strength=0.5, seed=2)
    assert run(engine, again)["status"]["status_str"] == "success"
    assert counts == {"analyses": 3, "resampler": 1}  # Only the new picture.


def test_every_layer_is_reached(inside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, positive, _ = applied()
    reached: set[int] = set()
    call = IdentityProcessor.__call__

    def counting(self: IdentityProcessor, *arguments: Any, identity: Any = None, **options: Any) -> Any:
        if identity is not None and self.position is not None:
            reached.add(self.position)
        return call(self, *arguments, identity=identity, **options)

    monkeypatch.setattr(IdentityProcessor, "__call__", counting)
    with torch.inference_mode():
        model.denoise(torch.randn(1, 4, 32, 32), torch.tensor(5.0), positive, negative=False)
    assert reached == set(range(70))


def applied(**options: Any) -> tuple[Any, Any, Any]:
    model, clip, _ = SDXLLoader.execute("auto").args
    adapter, control_net = InstantIDLoader.execute("auto", "auto").args
    positive, negative = (clip.encode(clip.tokenize(text)) for text in ("a woman", "blurry"))
    face = FaceIdentity(20 * np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32))
    values = {"ip_weight": 0.8, "cn_strength": 0.8, "start_at": 0.0, "end_at": 1.0, "noise": 0.35, **options}
    keypoints = torch.zeros(1, 256, 256, 3)
    return tuple(
        ApplyInstantID.execute(adapter, control_net, face, model, positive, negative, keypoints, **values).args
    )


def prediction(**options: Any) -> torch.Tensor:
    x = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model, positive, _ = applied(**options)
        return model.denoise(x, torch.tensor(5.0), positive, negative=False)


def test_both_strengths_act_and_only_within_their_window(inside: None) -> None:
    plain = prediction(ip_weight=0.0, cn_strength=0.0)

    def changes(**options: Any) -> float:
        return float((prediction(**options) - plain).norm() / plain.norm())

    assert changes(ip_weight=0.8, cn_strength=0.0) > 1e-3
    assert changes(ip_weight=0.0, cn_strength=0.8) > 1e-3
    assert changes(start_at=0.0, end_at=0.2) == 0
    assert changes(ip_weight=0.8, cn_strength=0.0, mask=torch.zeros(1, 256, 256)) == 0


def test_the_keypoints_are_embedded_once_for_all_steps_and_both_halves(inside: None) -> None:
    model, *halves = applied()
    embedded = 0

    def count(*_: Any) -> None:
        nonlocal embedded
        embedded += 1

    handle = halves[0][0][1]["control"].net.hints.register_forward_hook(count)
    with torch.inference_mode():
        for sigma in (5.0, 1.0):
            for negative, conditioning in enumerate(halves):
                model.denoise(torch.randn(1, 4, 32, 32), torch.tensor(sigma), conditioning, negative=bool(negative))
    handle.remove()
    assert embedded == 1


def test_flux_into_apply_says_so_and_does_not_fail_on_shapes(inside: None) -> None:
    flux, *_ = current_engine().load_flux(current_engine().default_flux(), "default")
    adapter, control_net = InstantIDLoader.execute("auto", "auto").args
    with pytest.raises(RylaError, match="SDXL; this MODEL is Flux") as caught:
        ApplyInstantID.execute(
            adapter, control_net, None, flux, [], [], torch.zeros(1, 64, 64, 3), 0.8, 0.8, 0.0, 1.0, 0.35
        )
    assert caught.value.code == "not_sdxl"


def test_strength_out_of_range_is_refused_before_the_job(engine: EngineServer, photo: Path) -> None:
    prompt = graph("sdxl-instantid", photo, engine)
    node = next(node for node in prompt.values() if node["class_type"] == "RYLA_ApplyInstantID")
    node["inputs"]["ip_weight"] = 7.0
    answer = httpx.post(f"{engine.url}/prompt", json={"prompt": prompt}, timeout=60)
    assert answer.status_code == 400 and "ip_weight" in answer.text


@pytest.fixture(scope="module")
def analyzer(engine: EngineServer) -> Any:
    with running_in(engine.engine):
        return FaceAnalyzer.execute("CPU").args[0]


def test_cuda_that_cannot_be_used_is_told_in_the_history_with_the_reason(inside: None) -> None:
    pytest.importorskip("onnxruntime")
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("Does not apply: this machine has CUDA")
    assert "onnxruntime-gpu has CUDA" in FaceAnalyzer.execute("CUDA").ui["text"][0]
    assert "onnxruntime" not in FaceAnalyzer.execute("CPU").ui["text"][0]


def test_damaged_models_are_told_before_the_job(
    engine: EngineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(shipped.ROOT, tmp_path / "paint")
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "paint")
    checks = {
        "ryla-paint-sdxl": lambda: SDXLLoader.validate_inputs("auto"),
        "ryla-paint-instantid": lambda: InstantIDLoader.validate_inputs("auto", "auto"),
        "ryla-paint-recogniser": lambda: FaceAnalyzer.validate_inputs("CPU"),
    }
    with running_in(engine.engine):
        for model, check in checks.items():
            assert check() is True
            path = shipped.path(model)
            whole = path.read_bytes()
            path.write_bytes(whole[:-1])
            with pytest.raises(RylaError) as refused:
                check()
            assert refused.value.code == "damaged_package" and str(path) in refused.value.message
            path.write_bytes(whole)


def test_crop_and_composite_change_nothing_outside_the_mask(inside: None, analyzer: Any) -> None:
    picture = torch.cat([image(3, face=0.35, center=(0.3, 0.4)), image(4, face=0.3, center=(0.75, 0.7))])
    crop, keypoints, mask, placement = FaceCrop.execute(analyzer, picture, 2.2, 256, "error", "size", 0).args
    assert crop.shape == keypoints.shape == (2, 256, 256, 3) and mask.shape == (2, 256, 256)
    # Each face's keypoints lie on the face in its crop.
    for index in range(2):
        hint = keypoints[index].numpy()
        assert mask[index].numpy()[hint.max(axis=2) > 0.9].min() > 0.5
    refined = torch.rand(crop.shape, generator=torch.Generator().manual_seed(0))
    result = FaceComposite.execute(picture, placement, 1.0, refined).args[0]
    changed = (result != picture).any(dim=-1)
    assert 0.02 < changed.float().mean() < 0.4
    again = FaceComposite.execute(picture, placement, 1.0, 1 - refined).args[0]
    assert torch.equal(result[~changed], again[~changed]) and torch.equal(result[~changed], picture[~changed])


def test_a_face_of_size_0_is_rendered_small_by_the_small_sdxl_and_at_1016_by_another(
    inside: None, engine: EngineServer, analyzer: Any
) -> None:
    small = FaceCrop.execute(analyzer, image(3), 2.2, 0, "error", "size", 0)
    assert small.args[0].shape == (1, 512, 512, 3) and "512 px" in small.ui["text"][0]
    with pytest.raises(RylaError, match="at least 256"):
        FaceCrop.execute(analyzer, image(3), 2.2, 248, "error", "size", 0)
    other = engine.engine.home / "models" / "checkpoints" / "photoreal.safetensors"
    other.parent.mkdir(parents=True)
    other.write_bytes(shipped.path("ryla-paint-sdxl").read_bytes())
    try:
        large = FaceCrop.execute(analyzer, image(3), 2.2, 0, "error", "size", 0)
    finally:
        other.unlink()
    assert large.args[0].shape == (1, 1016, 1016, 3) and "the engine's own" not in large.ui["text"][0]


def test_without_a_face_it_stops_or_passes_the_picture_on(inside: None, analyzer: Any) -> None:
    nobody = torch.full((1, 320, 320, 3), 0.4)
    tiny_face = image(3, 320, face=0.15)
    for picture, code in ((nobody, "no_face"), (tiny_face, "face_too_small")):
        with pytest.raises(RylaError) as caught:
            FaceCrop.execute(analyzer, picture, 2.2, 256, "error", "size", 0)
        assert caught.value.code == code
        crop, keypoints, mask, placement = FaceCrop.execute(analyzer, picture, 2.2, 256, "pass", "size", 0).args
        assert crop.shape == (1, 256, 256, 3) and not keypoints.any() and not mask.any()
        assert FaceComposite.check_lazy_status(image=picture, placement=placement, color_match=1.0) == []
        assert torch.equal(FaceComposite.execute(picture, placement, 1.0).args[0], picture)
    found = FaceCrop.execute(analyzer, image(3), 2.2, 256, "pass", "size", 0).args[3]
    assert FaceComposite.check_lazy_status(image=nobody, placement=found, color_match=1.0) == ["refined"]


def test_several_photos_make_one_identity(analyzer: Any) -> None:
    batch = torch.cat([image(3, face=0.5), image(3, face=0.4)])
    first = FaceEmbed.execute(analyzer, batch, "mean", "size", 0).args[0]
    both = FaceEmbed.execute(analyzer, image(3, 480), "concat", "size", 0, also=first).args[0]
    assert first.vectors.shape == (1, 1, 512) and both.vectors.shape == (1, 3, 512)
    with pytest.raises(RylaError, match="reference photo 2 of 2"):
        FaceEmbed.execute(analyzer, torch.cat([image(3), torch.full((1, 320, 320, 3), 0.4)]), "mean", "size", 0)


def test_keypoints_have_the_size_of_the_picture_to_come(analyzer: Any) -> None:
    drawn = FaceKeypoints.execute(analyzer, image(3), 832, 1216, 0.4, 0.5, 0.42, "size", 0).args[0]
    assert drawn.shape == (1, 1216, 832, 3)
    rows, columns = np.nonzero(drawn[0].numpy().max(axis=2) > 0.9)
    assert abs(columns.mean() - 416) < 20 and abs(rows.mean() - 0.42 * 1216) < 40


def test_similarity_is_recorded_and_a_missed_face_fails(inside: None, analyzer: Any) -> None:
    same = FaceSimilarity.execute(analyzer, image(3), image(3, face=0.35), 0.4)
    assert same.args[0] > 0.6 and same.args[1] is True
    nobody = FaceSimilarity.execute(analyzer, image(3), torch.full((1, 320, 320, 3), 0.4), 0.4)
    assert nobody.args == (0.0, False) and nobody.ui["text"] == ["face similarity no face"]


def test_a_face_is_saved_listed_and_loaded(inside: None, engine: EngineServer, analyzer: Any) -> None:
    face = FaceEmbed.execute(analyzer, torch.cat([image(3), image(3, face=0.4)]), "mean", "size", 0).args[0]
    SaveFace.execute(face, "Maya 2")
    node = httpx.get(f"{engine.url}/object_info/RYLA_LoadFace").json()["RYLA_LoadFace"]
    assert "faces/Maya 2.safetensors" in str(node["input"]["required"]["file"])
    loaded = LoadFace.execute("faces/Maya 2.safetensors", "as saved").args[0]
    assert np.array_equal(loaded.vectors, face.vectors)
    assert LoadFace.execute("faces/Maya 2.safetensors", "concat").args[0].vectors.shape == (1, 2, 512)
    for name in ("../escape", "", "a/b"):
        with pytest.raises(RylaError):
            SaveFace.execute(face, name)
    with pytest.raises(RylaError):
        LoadFace.execute("../../secret.safetensors", "mean")
