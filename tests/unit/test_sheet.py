"""``ryla sheet``: scenes of one person on one picture, with what was measured under each, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import face_models
import pytest
from PIL import Image
from ryla_nodes.batch import prompts
from ryla_nodes.errors import RylaError
from ryla_nodes.settings import load
from ryla_nodes.workflows.best_of import seeds
from ryla_nodes.workflows.manifest import available
from typed import Typed, typed
from unit.fake_engine_parts import jpeg
from unit.scoring_engine import ScoringEngine, add_likeness, score


@pytest.fixture
def engine() -> Iterator[ScoringEngine]:
    with ScoringEngine(make=jpeg) as running:
        yield running


@pytest.fixture
def sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.setenv("RYLA_WORKFLOWS", str(add_likeness(tmp_path / "shelf")))
    monkeypatch.setenv("RYLA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return typed(monkeypatch, capsys, "sheet", "--workflow", "likeness")


def scenes_file(folder: Path, count: int = 3) -> str:
    lines = [f"scene {number}, “quoted”" for number in range(1, count + 1)]
    (folder / "scenes.txt").write_text("# mine\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / "scenes.txt")


def test_eight_scenes_stand_on_the_sheet_with_their_scores(sheet: Typed, engine: ScoringEngine, tmp_path: Path) -> None:
    status, printed, _ = sheet("--server", engine.url, "-o", "out.png", "--json")
    told = json.loads(printed)
    assert status == 0 and [scene["prompt"] for scene in told["scenes"]] == list(prompts.load("scenes"))
    assert len(told["scenes"]) == 8
    assert [scene["face_similarity"] for scene in told["scenes"]] == [score(scene["seed"]) for scene in told["scenes"]]
    assert told["below"] == [n for n, scene in enumerate(told["scenes"], 1) if scene["face_similarity"] < 0.4]
    assert all(Path(scene["file"]).parent == Path("out") for scene in told["scenes"])
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG" and picture.width > 3 * 256
    # Nothing is run again.
    before = len(engine.seeds)
    again = json.loads(sheet("--server", engine.url, "-o", "out.png", "--json")[1])
    assert again["scenes"] == told["scenes"] and len(engine.seeds) == before


def test_a_scene_that_fails_is_named_and_run_again_next_time(
    sheet: Typed, engine: ScoringEngine, tmp_path: Path
) -> None:
    words = ("--server", engine.url, "--scenes", scenes_file(tmp_path), "--seed", "7", "-o", "out.png")
    engine.failing = {7}
    status, _, said = sheet(*words)
    assert status == 5 and "3 of 3 scenes failed (1, 2, 3)" in said and "failed: node_failed" in said
    assert (tmp_path / "out.png").exists()
    engine.failing = set()
    status, _, said = sheet(*words)
    assert status == 0 and "out.png: 3 of 3 scenes." in said and said.count(f"{score(7):.3f}") >= 3


def test_the_best_of_several_for_each_scene(sheet: Typed, engine: ScoringEngine, tmp_path: Path) -> None:
    words = ("--server", engine.url, "--scenes", scenes_file(tmp_path, 2), "--seed", "7", "--best-of", "3")
    status, printed, _ = sheet(*words, "-o", "out.png", "--json")
    best = max(map(score, seeds(7, 3)))
    assert status == 0 and sorted(engine.seeds) == sorted(seeds(7, 3) * 2)
    assert [scene["face_similarity"] for scene in json.loads(printed)["scenes"]] == [best, best]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a portr\xe4it\nx\n", "line 1: it is not UTF-8"),
        (b"good\nbad \xff\xfe\n", "line 2: it is not UTF-8"),
        (b"# only a remark\n\n", "has no prompt"),
        (b"a\0b\n", "line 1: that is no prompt"),
    ],
)
def test_files_that_are_no_prompts_are_refused(
    sheet: Typed, engine: ScoringEngine, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    status, _, printed = sheet("--server", engine.url, "--scenes", "bad.txt")
    assert status == 2 and "invalid_prompts" in printed and said in printed and not engine.seeds


def test_editors_byte_order_marks_are_no_part_of_a_prompt(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "p.txt").write_text("ein Gesicht\r\nnoch eins\u2028weiter\r\n", encoding=encoding)
        assert prompts.read(tmp_path / "p.txt") == ("ein Gesicht", "noch eins\u2028weiter")


def test_every_workflow_has_its_24_prompts_twice() -> None:
    for name in available(load({})):
        for kind in ("", prompts.DRAWN):
            found = prompts.load(name + kind)
            assert len(found) == len(set(found)) == 24, name + kind
    with pytest.raises(RylaError, match='did you mean "flux-dev"'):
        prompts.choose("flux-dve", "scenes", drawn=True)


def test_a_sheet_needs_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: ScoringEngine
) -> None:
    ryla = typed(monkeypatch, capsys, "sheet", "--server", engine.url)
    assert "give a photo, a LoRA, or both" in ryla()[2]
    assert "a prompt for each scene" in ryla("--prompt", "x", "--lora-id", "7")[2]


def test_a_photo_is_looked_at_before_anything_runs(
    sheet: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: ScoringEngine
) -> None:
    pytest.importorskip("insightface", reason="the extra `identity` is not installed")
    monkeypatch.setattr("ryla_nodes.cli.face.analyzer_of", lambda provider, demo: face_models.analyzer())
    Image.new("RGB", (300, 300), (20, 90, 160)).save("nobody.png")
    Image.fromarray(face_models.photo(3)).save("one.png")
    add_photo(tmp_path / "shelf" / "likeness")
    words = ("--server", engine.url, "--scenes", scenes_file(tmp_path, 1), "-o", "out.png")
    status, _, said = sheet(*words, "--reference-image", "nobody.png")
    assert status == 5 and "no_face" in said and "nobody.png" in said and not engine.seeds
    status, _, said = sheet(*words, "--reference-image", "one.png")
    assert status == 0 and "warning" not in said and len(engine.seeds) == 1


def add_photo(folder: Path) -> None:
    """Let ``likeness`` take a reference photo."""
    graph = json.loads((folder / "api.json").read_text(encoding="utf-8"))
    graph["4"] = {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Photo"}}
    (folder / "api.json").write_text(json.dumps(graph), encoding="utf-8")
    table = (
        '[parameters.reference_image]\ntype = "image"\nnode = "Photo"\ninput = "image"\nrequired = true\nhelp = "x"\n'
    )
    manifest = folder / "workflow.toml"
    manifest.write_text(manifest.read_text(encoding="utf-8") + table, encoding="utf-8")
