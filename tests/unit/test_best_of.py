"""The best of several pictures: which is kept, what is told of the others, and what goes wrong with some of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ryla_nodes import settings
from ryla_nodes.client import Client, State, Submission
from ryla_nodes.client.best_of import id_of
from ryla_nodes.errors import RylaError
from ryla_nodes.workflows.best_of import seeds
from typed import Typed, typed
from unit.scoring_engine import ScoringEngine, add_likeness, score

FIRST = 7
FOUR = seeds(FIRST, 4)
BEST = max(FOUR, key=score)


@pytest.fixture
def engine() -> Iterator[ScoringEngine]:
    with ScoringEngine() as running:
        yield running


@pytest.fixture
def client(engine: ScoringEngine, tmp_path: Path) -> Iterator[Client]:
    known = settings.load({"RYLA_WORKFLOWS": str(add_likeness(tmp_path / "workflows"))})
    with Client(engine.url, settings=known) as one:
        yield one


@pytest.fixture
def ryla(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    monkeypatch.setenv("RYLA_WORKFLOWS", str(add_likeness(tmp_path / "shelf")))
    monkeypatch.chdir(tmp_path)
    return typed(monkeypatch, capsys, "run")


def asked(**more: Any) -> dict[str, Any]:
    return {"prompt": "a person", "seed": FIRST, "best_of": 4, **more}


def test_the_seeds_are_those_that_the_page_documents() -> None:
    page = (Path(__file__).parents[2] / "docs" / "identity.md").read_text(encoding="utf-8")
    assert "SHA-256" in page and "`SEED-k`" in page
    by_hand = [int.from_bytes(hashlib.sha256(f"7-{k}".encode()).digest()[:8], "big") % 2**63 for k in (2, 3, 4)]
    assert (7, *by_hand) == FOUR
    assert seeds(FIRST, 2) == FOUR[:2]
    assert all(5 <= seed <= 9 for seed in seeds(6, 16, 5, 9)) and len(set(seeds(6, 16, 5, 9))) == 5


def test_the_highest_score_is_kept_and_all_are_told(client: Client, engine: ScoringEngine) -> None:
    result = client.run("likeness", asked())
    assert sorted(engine.seeds) == sorted(FOUR)
    assert [candidate.seed for candidate in result.candidates] == list(FOUR)
    assert [candidate.similarity for candidate in result.candidates] == [score(seed) for seed in FOUR]
    assert [candidate.seed for candidate in result.candidates if candidate.chosen] == [BEST]
    assert result.face_similarity == score(BEST) == max(map(score, FOUR))
    # The picture is that job's own, and the seed is the one that makes all of it again.
    assert engine.history[result.prompt_id]["prompt"][2]["1"]["inputs"]["seed"] == BEST
    assert (result.seed, result.parameters["best_of"], result.warnings) == (FIRST, 4, ())
    assert result.prompt_id.encode() in result.pictures[0].data


def test_what_fails_leaves_the_choice_to_the_rest(client: Client, engine: ScoringEngine) -> None:
    engine.failing = {BEST, FOUR[1]}
    result = client.run("likeness", asked())
    rest = [seed for seed in FOUR if seed not in engine.failing]
    assert [candidate.seed for candidate in result.candidates if candidate.chosen] == [max(rest, key=score)]
    assert [candidate.seed for candidate in result.candidates if candidate.error] == [
        seed for seed in FOUR if seed in engine.failing
    ]
    assert len(result.warnings) == 1 and result.warnings[0].startswith(f"{len(engine.failing)} of 4 pictures failed")
    assert "the brush broke" in result.warnings[0]


def test_when_all_fail_the_job_does(client: Client, engine: ScoringEngine) -> None:
    engine.failing = set(FOUR)
    with pytest.raises(RylaError, match=r"All 4 pictures failed, the first so: .*the brush broke") as failure:
        client.run("likeness", asked())
    assert failure.value.code == "node_failed" and failure.value.details["seed"] == FIRST


def test_without_a_score_the_first_is_kept_and_that_is_said(client: Client, engine: ScoringEngine) -> None:
    engine.faults.add("no score")
    result = client.run("likeness", asked())
    assert [candidate.chosen for candidate in result.candidates] == [True, False, False, False]
    assert result.warnings == ("No picture has a face score: the first that was made is kept.",)


def test_a_cancellation_stops_all_of_them(client: Client, engine: ScoringEngine) -> None:
    engine.seconds = 30
    job = client.submit("likeness", asked(), timeout=60)
    result = client.cancel(job)
    assert result.state is State.CANCELLED and result.error is not None and result.error.code == "cancelled"
    assert not engine.pending and not engine.running and not engine.seeds


def test_the_deadline_is_that_of_all_together(client: Client, engine: ScoringEngine) -> None:
    engine.quick = 1
    result = client.run("likeness", asked(), timeout=3)
    assert len(engine.seeds) == 1 and engine.seeds[0] in FOUR
    codes = sorted(candidate.error.code if candidate.error else "" for candidate in result.candidates)
    assert codes == ["", "timed_out", "timed_out", "timed_out"]
    assert not engine.pending and not engine.running


def test_a_job_that_is_taken_up_runs_only_what_no_engine_has(client: Client, engine: ScoringEngine) -> None:
    noted: list[Submission] = []
    first = client.start("likeness", asked(best_of=2), on_submit=noted.append)
    client.wait(first)
    assert {submission.prompt_id for submission in noted} == {noted[0].prompt_id}
    assert sorted(engine.executions) == sorted(id_of(noted[0].prompt_id, number) for number in (0, 1))
    # An earlier process that was killed after two of four.
    whole = client.bind("likeness", asked())
    result = client.wait(client.attach(whole, noted[-1])).required()
    assert sorted(engine.seeds) == sorted(FOUR)
    assert [candidate.similarity for candidate in result.candidates] == [score(seed) for seed in FOUR]


def test_several_engines_share_the_pictures(engine: ScoringEngine, tmp_path: Path) -> None:
    known = settings.load({"RYLA_WORKFLOWS": str(add_likeness(tmp_path / "workflows"))})
    engine.seconds = 0.3
    with ScoringEngine(seconds=0.3) as other, Client(engine.url, other.url, settings=known) as both:
        result = both.run("likeness", asked())
        assert sorted(engine.seeds + other.seeds) == sorted(FOUR) and engine.seeds and other.seeds
        assert result.face_similarity == score(BEST)


# --- as it is typed ---------------------------------------------------------------------------------------------------


def test_the_line_and_the_object_tell_every_score(ryla: Typed, engine: ScoringEngine) -> None:
    words = ("likeness", "--prompt", "x", "--seed", "7", "--best-of", "4", "--server", engine.url)
    status, _, said = ryla(*words, "-o", "a.png")
    assert status == 0
    line = next(line for line in said.splitlines() if "best of" in line)
    assert f"best of 4: kept {score(BEST):.3f} (seed {BEST})" in line
    assert all(f"{score(seed):.3f} (seed {seed})" in line for seed in FOUR)
    status, printed, _ = ryla(*words, "-o", "b.png", "--json")
    told = json.loads(printed)
    assert [each["seed"] for each in told["best_of"]] == list(FOUR)
    assert [each["seed"] for each in told["best_of"] if each["chosen"]] == [BEST]
    assert told["face_similarity"] == score(BEST) and told["seed"] == 7


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0", "below the smallest, 1"),
        ("-3", "below the smallest, 1"),
        ("17", "above the largest, 16"),
        ("2.5", "a whole number"),
        ("many", "a number"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(ryla: Typed, value: str, said: str) -> None:
    status, _, printed = ryla("likeness", "--prompt", "x", "--best-of", value, "--server", "http://127.0.0.1:1")
    assert status == 2 and "invalid_parameter" in printed and said in printed


def test_a_workflow_without_a_score_is_refused_with_those_that_have_one(ryla: Typed) -> None:
    status, _, printed = ryla("flux-dev", "--prompt", "x", "--best-of", "2", "--server", "http://127.0.0.1:1")
    assert status == 2 and "flux-dev gives no face score" in printed
    assert "flux-instantid, likeness, sdxl-instantid" in printed


def test_a_manifest_may_not_have_one_of_its_own(tmp_path: Path) -> None:
    manifest = add_likeness(tmp_path) / "likeness" / "workflow.toml"
    own = '[parameters.best_of]\ntype = "int"\nnode = "Paint"\ninput = "seed"\ndefault = 1\nhelp = "x"\n'
    manifest.write_text(manifest.read_text(encoding="utf-8") + own, encoding="utf-8")
    with pytest.raises(RylaError, match='has a "best_of" anyway'):
        Client("http://127.0.0.1:1", settings=settings.load({"RYLA_WORKFLOWS": str(tmp_path)})).bind("likeness", {})


def test_a_batch_knows_how_many_were_asked_for(ryla: Typed, engine: ScoringEngine, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,seed,best_of\na,7,2\nb,9,1\n", encoding="utf-8")
    os.mkdir("out")  # noqa: PTH102
    words = ("likeness", "--batch", str(rows), "-o", "out/{index}.png", "--server", engine.url)
    status, _, said = ryla(*words)
    assert status == 0 and f"face {max(map(score, seeds(7, 2))):.3f}, best of 2: kept" in said
    assert len(engine.seeds) == 3
    told = json.loads(ryla(*words, "--json")[1])
    assert told["face_similarity"] == {"1": max(map(score, seeds(7, 2))), "2": score(9)}
    assert [each["seed"] for each in told["best_of"]["1"]] == list(seeds(7, 2)) and "2" not in told["best_of"]
    assert ryla(*words)[0] == 0
    assert len(engine.seeds) == 3  # Made is made.
    rows.write_text("prompt,seed,best_of\na,7,4\nb,9,1\n", encoding="utf-8")
    assert ryla(*words)[0] == 0
    assert len(engine.seeds) == 3 + 4  # Another number is another job; the row that stays is not run again.
