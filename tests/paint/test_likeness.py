"""The evaluation of likeness: who and what is asked for, batches that change nothing, rates, goals, and a small run."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the extra `identity` is not installed")
pytest.importorskip("insightface", reason="the extra `identity` is not installed")

from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.protocol import InstantIDSettings
from ryla_nodes.identity.adapter import Adapter
from ryla_nodes.identity.attention import LAYERS, adapter_name
from ryla_nodes.identity.face_file import FaceIdentity
from ryla_nodes.models.folders import ModelFolders
from safetensors.torch import load_file

from training.evaluation import Share
from training.likeness import ablation, cast
from training.likeness.figures import KINDS, ROWS, Figures, grows
from training.likeness.rows import ABLATIONS, FLUX, OWN, PAIRS, asked_for, strength_name
from training.likeness.together import GatheredModel, Together
from training.sdxl.captions import corpus
from training.sdxl.plan import Plan

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
COUNT = 200


@pytest.fixture(scope="module")
def engine(tiny_home: Path) -> EmbeddedEngine:
    return EmbeddedEngine(tiny_home, ModelFolders({}))


def test_a_person_looks_alike_in_every_run_and_never_the_same() -> None:
    one, again, view, other = cast.drawn(3, 0), cast.drawn(3, 0), cast.drawn(3, 1), cast.drawn(4, 0)
    assert np.array_equal(one, again) and one.shape == (cast.PHOTO, cast.PHOTO, 3)
    assert not np.array_equal(one, view) and not np.array_equal(one, other)


def test_what_is_asked_for_was_never_trained_on() -> None:
    known = set(corpus(Plan().seed))
    texts = [cast.prompt(number) for number in range(40)]
    assert not known & set(texts) and len(set(texts)) == len(texts)
    chosen = cast.fitting(20)
    assert all((scene := cast.scene(number)) is not None and scene.held_out for number in chosen)


def test_a_batch_of_jobs_is_computed_as_they_are_one_by_one(engine: EmbeddedEngine) -> None:
    """Other people, strengths, sides of the guidance, noise levels and halves of the picture, at once."""
    files = engine.default_identity()
    model, clip, _ = engine.load_checkpoint(files.checkpoint)
    control_net, adapter = engine.load_control_net(files.control_net), Adapter(files.adapter)
    together = Together(4)
    text = clip.encode(clip.tokenize("a person"))
    chance = torch.Generator().manual_seed(1)
    calls = []
    for number in range(4):
        face = FaceIdentity(np.random.default_rng(number).standard_normal((1, 512)).astype(np.float32))
        mask = None if number < 2 else torch.arange(64).expand(1, 64, 64).gt(20 + 10 * number).float()
        hint = torch.rand(1, 64, 64, 3, generator=chance)
        settings = InstantIDSettings(hint, 0.4 + 0.2 * number, 0.8, noise=0.35, mask=mask)
        x, sigma = torch.randn(1, 4, 8, 8, generator=chance), model.sampling.sigmas[200 + 100 * number]
        patched = [
            engine.apply_instantid(each, text, text, control_net, adapter, face, settings)
            for each in (model, GatheredModel.of(model, together))
        ]
        calls.append((patched, x, sigma, bool(number % 2)))
    made: dict[int, torch.Tensor] = {}

    @torch.inference_mode()
    def run(number: int, which: int) -> torch.Tensor:
        patched, x, sigma, negative = calls[number]
        changed, positive, unwanted = patched[which]
        return changed.denoise(x, sigma, unwanted if negative else positive, negative)

    threads = [threading.Thread(target=lambda n=n: made.update({n: run(n, 1)})) for n in range(4)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        alone = run(number, 0)
        assert (made[number] - alone).norm() / alone.norm() < 1e-4
        assert (made[number] - run((number + 1) % 4, 0)).norm() / alone.norm() > 0.01


def test_an_error_in_a_batch_ends_every_job_of_it() -> None:
    class Broken:
        identities = ()

    from training.likeness.together import Call

    with pytest.raises(AttributeError):
        Together(1).denoise(Call(Broken(), torch.zeros(1), torch.zeros(()), [[torch.zeros(1), {}]], False))  # type: ignore[arg-type]


def test_what_an_ablation_leaves_of_an_adapter(engine: EmbeddedEngine, tmp_path: Path) -> None:
    adapter = engine.default_identity().adapter
    whole, without, order = (
        load_file(p) for p in (adapter, *(ablation.write(adapter, k, tmp_path) for k in ABLATIONS))
    )
    names = [f"ip_adapter.{adapter_name(position, 'v')}" for position in range(len(LAYERS))]
    silent = [layer.block for layer, name in zip(LAYERS, names, strict=True) if not without[name].float().any()]
    assert silent == ["middle"] * 10 and set(without) == set(order) == set(whole)
    moved = sum(not torch.equal(whole[name], order[name]) for name in names)
    assert moved == 69 and sorted(whole[n].float().sum() for n in names) == sorted(
        order[n].float().sum() for n in names
    )


def rates(*shares: tuple[int, int]) -> list[dict[str, object]]:
    return [Share(*share).as_dict() for share in shares]


def test_a_rate_grows_where_it_surely_does() -> None:
    assert grows(rates((0, 50), (10, 50), (40, 50), (39, 50)))
    assert not grows(rates((0, 50), (45, 50), (10, 50), (45, 50))), "it fell on the way"
    assert not grows(rates((20, 50), (25, 50))), "that may be chance"


def line(kind: str, good: bool) -> dict[str, Any]:
    score = 0.9 if good else 0.1
    facts: dict[str, Any] = {"similarity": score, "off": 0.03 if good else 0.2, "changed_outside": 0 if good else 4}
    facts |= dict.fromkeys(("left", "right", "left_as_right", "right_as_left"), score)
    right = {"hair": good, "hat": good, "background": good, "skin": good}
    return facts | {"plain": dict.fromkeys(right, True), "faced": right, "masked": 0.2, "kind": kind}


def all_lines(good: set[str]) -> dict[str, dict[str, Any]]:
    asked = {each for row in ROWS for each in asked_for(row, COUNT)}
    return {each.key: line(each.kind, each.kind in good) for each in asked}


def test_goals_are_met_by_what_meets_them_and_by_nothing_else() -> None:
    strong = {OWN, FLUX, PAIRS, "drawn", *(strength_name(s) for s in (0.6, 1.0))}
    met = Figures(ROWS, COUNT, all_lines(strong), 0.5).goals()
    assert all(met.values()) and len(met) == 14, met
    one = Figures(ROWS, COUNT, all_lines({*strong, "without-middle"}), 0.5).goals()
    assert all(one.values()), "one of the ablations is felt, which is enough"
    none = Figures(ROWS, COUNT, all_lines(set()), 0.5).goals()
    kept = {goal for goal, reached in none.items() if reached}
    assert all("at most" in goal and "keypoints" not in goal for goal in kept), "models that know nobody pass"
    everybody = Figures(ROWS, COUNT, all_lines({*strong, *KINDS}), 0.5).goals()
    wrong = {goal for goal, reached in everybody.items() if not reached}
    assert len(wrong) == 4 and all("most" in goal or "grows" in goal or "falls" in goal for goal in wrong), wrong


def test_a_small_run_says_what_is_missed_and_goes_on(
    tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import people

    (tmp_path / "home").symlink_to(tiny_home)
    options = ["--count", "2", "--steps", "1", "--row", "drawn", "--row", "pairs", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["people.py", "--device", "cpu", *options])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert people.main() == 1, "made-up weights reach no goal"
    told = capsys.readouterr()
    assert "3 of 3 pictures" in told.err and "Missed: pairs: left accepted in at least 80%" in told.out
    (folder,) = tmp_path.glob("256px-*")
    report = json.loads((folder / "people.json").read_text())
    assert report["rows"]["pairs"]["left"]["total"] == 1 and report["threshold"]["pairs"] > 0
    assert all((folder / f"people-{row}.jpg").is_file() for row in ("drawn", "pairs"))
    (folder / "pictures" / "drawn-0001.png").unlink()
    assert people.main() == 1
    assert "1 of 1 pictures" in capsys.readouterr().err, "what was done is not done again"
