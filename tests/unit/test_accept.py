"""``ryla accept`` on engines that fail in every way: what is measured, what goes on, what is never called passed."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import face_models
import pytest
from PIL import Image
from ryla_nodes.acceptance.figures import difference, percentile, psnr
from typed import Typed, typed
from unit.fake_engine_parts import jpeg
from unit.scoring_engine import ScoringEngine, add_likeness, score
from unit.test_sheet import add_photo

SEED = 500  # Scores of 0.5 and up: every face passes.


@pytest.fixture
def engine() -> Iterator[ScoringEngine]:
    with ScoringEngine(make=jpeg, seconds=0.01) as running:
        yield running


@pytest.fixture
def accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: ScoringEngine
) -> Typed:
    monkeypatch.setenv("RYLA_WORKFLOWS", str(add_likeness(tmp_path / "shelf")))
    monkeypatch.setenv("RYLA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a <b>bold</b> person\na quiet person\n", encoding="utf-8")
    words = ("accept", "likeness", "--prompts", "prompts.txt", "--server", engine.url, "-o", "run")
    return typed(monkeypatch, capsys, *words)


def figures(printed: str) -> dict[str, dict[str, Any]]:
    told = json.loads(printed)
    listed = told["figures"] if told["ok"] else told["error"]["details"]["figures"]
    return {figure["name"]: figure for figure in listed}


def test_a_run_that_meets_its_targets(accept: Typed, engine: ScoringEngine, tmp_path: Path) -> None:
    status, printed, _ = accept("--samples", "10", "--first-seed", str(SEED), "--json")
    assert status == 0, printed
    found = figures(printed)
    assert found["success rate"]["measured"].startswith("10 of 10 = 100.0% (95 %: 72.2% to 100.0%)")
    assert found["face pass rate at 0.40"]["passed"] == 10
    assert found["mean cosine"]["mean"] == pytest.approx(sum(score(SEED + n) for n in range(10)) / 10)
    assert found["5 at once"]["state"] == "pass"
    # It is not ours to restart: said so, and not passed.
    for name in ("cold start to the first picture", "the same picture after a restart"):
        assert found[name]["state"] == "not measured" and "cannot be restarted" in found[name]["why"]
    # Ten samples, and five at once with seeds of their own.
    assert len(engine.seeds) == len(set(engine.seeds)) == 15
    for kind in ("json", "md", "html"):
        assert (tmp_path / "run" / f"report.{kind}").exists()


def test_the_page_needs_no_other_file_and_believes_no_prompt(accept: Typed, tmp_path: Path) -> None:
    accept("--samples", "2")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page and "&lt;b&gt;bold&lt;/b&gt;" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 2 + 5 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "url(" not in page and "<script" not in page


def test_what_misses_its_target_fails_the_run(accept: Typed, engine: ScoringEngine, tmp_path: Path) -> None:
    engine.failing = {3, 4}
    status, printed, _ = accept("--samples", "10", "--first-seed", "0", "--json")
    found = figures(printed)
    assert status == 5 and json.loads(printed)["error"]["code"] == "acceptance_failed"
    assert found["success rate"]["state"] == "fail" and found["success rate"]["made"] == 8
    assert found["face pass rate at 0.40"]["state"] == "fail" and found["face pass rate at 0.40"]["passed"] == 0
    assert "the brush broke" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "the brush broke" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_too_few_samples_are_no_proof(accept: Typed) -> None:
    status, printed, _ = accept("--samples", "3", "--first-seed", str(SEED), "--json")
    assert status == 5 and figures(printed)["samples"]["state"] == "fail"
    # More of them go on from there.
    status, printed, _ = accept("--samples", "10", "--json")
    assert status == 0 and figures(printed)["samples"]["count"] == 10


def test_faces_without_a_score_are_not_measured_and_never_pass(accept: Typed, engine: ScoringEngine) -> None:
    engine.faults.add("no score")
    status, printed, _ = accept("--samples", "10", "--json")
    found = figures(printed)
    assert status == 3 and json.loads(printed)["error"]["code"] == "acceptance_incomplete"
    assert found["face pass rate at 0.40"]["state"] == "not measured" and "mean cosine" not in found


def test_what_is_missing_on_the_engine_stops_that_workflow_and_is_named(
    accept: Typed, engine: ScoringEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ryla_nodes.errors import RylaError

    def lacking(*_: Any) -> RylaError:
        return RylaError(
            "insightface_missing", "InsightFace cannot be imported.", hint="pip install 'insightface>=2.0'"
        )

    monkeypatch.setattr("unit.fake_engine_worker.RylaError", lacking)
    engine.faults.add("our error")
    status, printed, _ = accept("--samples", "10", "--json")
    found = figures(printed)
    assert status == 3 and len(engine.started) == 1
    assert all(figure["state"] == "not measured" for figure in found.values()) and "face pass rate at 0.40" in found
    assert "pip install 'insightface>=2.0'" in found["samples"]["why"]
    # Once it is installed, the same command goes on.
    engine.faults.clear()
    status, printed, _ = accept("--samples", "10", "--json")
    assert figures(printed)["success rate"]["made"] == 10


def test_an_engine_that_dies_half_way_and_comes_back(accept: Typed, engine: ScoringEngine, tmp_path: Path) -> None:
    def die() -> None:
        if len(engine.executions) == 4:
            threading.Thread(target=engine.kill).start()

    from ryla_nodes.cli.run import engines
    from ryla_nodes.client import Limits

    engine.on_execute = die  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "Limits", lambda: Limits(gone_after=0.5, patience=0.5))
        status, _, said = accept("--samples", "10", "--first-seed", str(SEED))
    assert status == 4 and "run the same command" in said
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    # Killed while it wrote a line, too.
    (tmp_path / "run" / "journal.jsonl").write_bytes(before + b'{"key": "sample/likeness/9", "ok": tr')
    engine.on_execute = lambda: None  # type: ignore[method-assign]
    measured = before.count(b'"key": "sample/')
    assert 3 <= measured <= 5
    engine.start()
    engine.seeds.clear()
    status, printed, _ = accept("--samples", "10", "--json")
    assert status == 0 and figures(printed)["success rate"]["made"] == 10
    assert len(engine.seeds) == 10 - measured + 5


def test_a_picture_that_was_lost_is_measured_again(accept: Typed, engine: ScoringEngine, tmp_path: Path) -> None:
    accept("--samples", "3")
    picture = next((tmp_path / "run" / "pictures").glob("likeness-002*"))
    picture.write_bytes(b"something else")
    engine.seeds.clear()
    accept("--samples", "3")
    assert len(engine.seeds) == 1


def test_a_folder_of_another_question_is_left_alone(accept: Typed, tmp_path: Path) -> None:
    accept("--samples", "2")
    (tmp_path / "prompts.txt").write_text("another prompt\n", encoding="utf-8")
    status, _, said = accept("--samples", "2")
    assert status == 2 and "invalid_manifest" in said and "asked for something else" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--samples", "0"), "it is 1 to 1000"),
        (("--samples", "-1"), "it is 1 to 1000"),
        (("--samples", "1001"), "it is 1 to 1000"),
        (("--prompt", "x"), "give --prompts FILE"),
        (("--seed", "3"), "give --first-seed"),
        (("--reference-image", "x.png"), "give --references FOLDER"),
        (("--stepz", "3"), 'has a parameter "stepz"'),
        (("--references", "."), "takes a photo, so --references is for nothing"),
        (("--lora-id", "7"), "takes a LoRA, so --lora-id is for nothing"),
        (("--best-of", "0"), "below the smallest"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    accept: Typed, engine: ScoringEngine, words: tuple[str, ...], said: str
) -> None:
    status, _, printed = accept(*words)
    assert status == 2 and said in printed and not engine.posts


def test_a_workflow_of_ones_own_needs_prompts_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: ScoringEngine
) -> None:
    monkeypatch.setenv("RYLA_WORKFLOWS", str(add_likeness(tmp_path / "shelf")))
    monkeypatch.chdir(tmp_path)
    status, _, said = typed(monkeypatch, capsys, "accept", "likeness", "--server", engine.url)()
    assert status == 2 and "No prompts are shipped for likeness" in said and "--prompts FILE" in said


def test_a_broken_photo_is_named_and_two_people_as_one_are_told(
    accept: Typed, engine: ScoringEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("insightface", reason="the extra `identity` is not installed")
    monkeypatch.setattr("ryla_nodes.cli.face.analyzer_of", lambda provider, demo: face_models.analyzer())
    add_photo(tmp_path / "shelf" / "likeness")
    for name, seed in (("anna/1.png", 1), ("anna/2.png", 1), ("mixed/1.png", 2), ("mixed/2.png", 4)):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face_models.photo(seed, 320)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "anna" / "3.png").write_bytes(b"no picture at all")
    status, printed, _ = accept("--samples", "10", "--first-seed", str(SEED), "--references", "photos", "--json")
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert status == 0 and figures(printed)["relative to photos of one person"]["state"] == "no target"
    notes = report["people"]["notes"]
    assert any("3.png is not a picture" in note and "left out" in note for note in notes)
    assert any(
        re.search(r"mixed may show two people: the cosine of 1.png and 2.png is -?0\.\d\d", note) for note in notes
    )
    people = [sample["person"] for sample in report["workflows"][0]["samples"]]
    assert people[:4] == ["anna", "mixed", "anna", "mixed"]
    assert len(engine.uploads) == 2


def test_without_insightface_here_the_report_says_what_to_install(
    accept: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ryla_nodes.errors import RylaError

    def missing(*_: Any, **__: Any) -> None:
        raise RylaError("insightface_missing", "InsightFace cannot be imported.", hint="pip install 'insightface>=2.0'")

    monkeypatch.setattr("ryla_nodes.cli.face.analyzer_of", missing)
    add_photo(tmp_path / "shelf" / "likeness")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    status, printed, _ = accept("--samples", "10", "--first-seed", str(SEED), "--references", "photos", "--json")
    relative = figures(printed)["relative to photos of one person"]
    assert status == 0 and relative["state"] == "not measured" and "pip install" in relative["why"]
    notes = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))["people"]["notes"]
    assert "not checked" in notes[0] and "broken.jpg" in notes[1]


def test_a_machine_that_only_asks_others_needs_no_numpy(engine: ScoringEngine, tmp_path: Path) -> None:
    add_photo(add_likeness(tmp_path / "shelf") / "likeness")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "photos" / "a.png")
    (tmp_path / "prompts.txt").write_text("a person\n", encoding="utf-8")
    code = "import sys; sys.modules['numpy'] = None; from ryla_nodes.cli.app import main; main()"
    environ = {**os.environ, "RYLA_WORKFLOWS": str(tmp_path / "shelf"), "RYLA_HOME": str(tmp_path / "home")}
    for words in (
        ("accept", "likeness", "--prompts", "prompts.txt", "--references", "photos", "--samples", "10",
         "--first-seed", str(SEED), "-o", "run"),
        ("sheet", "--workflow", "likeness", "--scenes", "prompts.txt", "--reference-image", "photos/a.png"),
    ):  # fmt: skip
        command = [sys.executable, "-c", code, *words, "--server", engine.url]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "pip install 'ryla-nodes[identity]'" in done.stderr


def test_figures_of_known_pictures(tmp_path: Path) -> None:
    for name, colour in (("a", 100), ("b", 103)):
        Image.new("RGB", (8, 8), (colour,) * 3).save(tmp_path / f"{name}.png")
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    assert difference(a, b) == 3.0 and math.isinf(psnr(a, a))
    assert psnr(a, b) == pytest.approx(20 * math.log10(255 / 3))
    values = [float(n) for n in range(1, 25)]
    assert (percentile(values, 50), percentile(values, 95), percentile([4.0], 95)) == (12.0, 23.0, 4.0)
