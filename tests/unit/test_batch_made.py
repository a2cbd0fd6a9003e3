"""A picture is called made when this very job made this file, and nothing that another row made is overwritten."""

from __future__ import annotations

import csv
import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.batch.fingerprint import Fingerprint, Fingerprints
from ryla_nodes.batch.naming import Claim, Claims
from ryla_nodes.client.results import Format, Picture, save
from ryla_nodes.workflows.manifest import load
from ryla_nodes.workflows.workflow import bind
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import add_workflow
from unit.test_client_cli import ryla

__all__ = ["ryla"]

ROWS = int(os.environ.get("RYLA_TEST_ROWS", "24"))
"""200 take a minute: RYLA_TEST_ROWS=200."""

PHOTO = """
[parameters.photo]
type = "image"
node = "Photo"
input = "image"
required = true
help = "A photo."
[parameters.lora_id]
type = "lora"
node = "Paint"
input = "lora_id"
default = ""
help = "A LoRA."
"""


def _with_photo(root: Path, name: str = "photo") -> None:
    """A workflow that also needs a photo and may use a LoRA."""
    add_workflow(root, name)
    manifest, api = root / name / "workflow.toml", root / name / "api.json"
    manifest.write_text(manifest.read_text() + PHOTO)
    nodes = json.loads(api.read_text())
    nodes["1"]["inputs"]["lora_id"] = ""
    nodes["1"]["inputs"]["image"] = ["5", 0]
    nodes["5"] = {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Photo"}}
    api.write_text(json.dumps(nodes))


def _rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _photo(path: Path, colour: int) -> None:
    Image.new("RGB", (4, 4), (colour % 256, colour // 256, 9)).save(path)


def _prompt_id(path: Path) -> str:
    with Image.open(path) as picture:
        return str(picture.info["prompt_id"])


class _Truth:
    """What the engine really made: prompt id -> graph."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def graph(self, path: Path) -> dict[str, Any]:
        return dict(zip(self.engine.executions, self.engine.graphs, strict=True))[_prompt_id(path)]

    def text(self, path: str) -> str:
        return str(self.graph(Path(path))["1"]["inputs"]["text"])

    def photo(self, path: str) -> bytes:
        name = self.graph(Path(path))["5"]["inputs"]["image"]
        return self.engine.uploads[str(name)]


def _made(ryla: Any, *arguments: str) -> dict[str, Any]:
    status, out, err = ryla(*arguments, "--json")
    assert status == 0, out + err
    body: dict[str, Any] = json.loads(out)
    return body


def test_an_edited_row_and_the_edit_undone_report_pictures_of_their_rows(ryla: Any) -> None:
    with FakeEngine(seconds=0.0) as engine:
        truth = _Truth(engine)
        for prompt in ("a", "b", "a"):
            _rows(Path("b.csv"), [{"prompt": prompt, "seed": 1}, {"prompt": "other", "seed": 2}])
            body = _made(ryla, "paint", "--batch", "b.csv", "-o", "{index:04}.png", "--server", engine.url)
            assert [truth.text(file) for file in body["files"].values()] == [prompt, "other"]
        assert len(engine.executions) == 3, "made twice"
        assert sorted(path.name for path in Path().glob("*.png")) == ["0001-2.png", "0001.png", "0002.png"]


def test_overwrite_is_said_and_then_done(ryla: Any) -> None:
    with FakeEngine(seconds=0.0) as engine:
        truth = _Truth(engine)
        command = ("--seeds", "7", "-o", "{index}.png", "--server", engine.url)
        _made(ryla, "paint", "--prompt", "a", *command)
        body = _made(ryla, "paint", "--prompt", "b", *command)
        assert body["files"] == {"1": "1-2.png"} and "--overwrite" in body["warnings"][0]
        body = _made(ryla, "paint", "--prompt", "c", *command, "--overwrite")
        assert body["files"] == {"1": "1.png"} and truth.text("1.png") == "c" and truth.text("1-2.png") == "b"
        # The file that the first row had made is another picture now.
        body = _made(ryla, "paint", "--prompt", "a", *command)
        assert truth.text(body["files"]["1"]) == "a" and len(engine.executions) == 4


def test_a_photo_that_was_replaced_makes_the_picture_anew(ryla: Any, tmp_path: Path) -> None:
    _with_photo(tmp_path / "workflows")
    with FakeEngine(seconds=0.0) as engine:
        truth = _Truth(engine)
        command = ("photo", "--prompt", "a", "--photo", "p.png", "--seeds", "1", "-o", "{index}.png",
                   "--server", engine.url)  # fmt: skip
        for number in (1, 2, 1):
            _photo(Path("p.png"), number)
            body = _made(ryla, *command)
            assert truth.photo(body["files"]["1"]) == Path("p.png").read_bytes()
        assert len(engine.executions) == 2


def test_two_photos_that_swap_their_names_swap_their_pictures(ryla: Any, tmp_path: Path) -> None:
    _with_photo(tmp_path / "workflows")
    for name, number in (("p.png", 1), ("q.png", 2)):
        _photo(Path(name), number)
    _rows(Path("b.csv"), [{"prompt": "a", "seed": 1, "photo": "p.png"}, {"prompt": "a", "seed": 1, "photo": "q.png"}])
    with FakeEngine(seconds=0.0) as engine:
        truth = _Truth(engine)
        command = ("photo", "--batch", "b.csv", "-o", "{index}.png", "--server", engine.url)
        _made(ryla, *command)
        Path("p.png").rename("t"), Path("q.png").rename("p.png"), Path("t").rename("q.png")
        body = _made(ryla, *command)
        assert [truth.photo(file) for file in body["files"].values()] == [
            Path("p.png").read_bytes(), Path("q.png").read_bytes()
        ]  # fmt: skip
        # Both pictures were there: under each other's number.
        assert body["files"] == {"1": "2.png", "2": "1.png"} and len(engine.executions) == 2


def test_a_photo_that_changes_while_the_batch_waits_is_not_taken_for_the_old_one(ryla: Any, tmp_path: Path) -> None:
    _with_photo(tmp_path / "workflows")
    _photo(Path("p.png"), 1)
    with FakeEngine(seconds=0.0) as engine:
        engine.on_execute = lambda: _photo(Path("p.png"), 2)
        command = ("photo", "--prompt", "a", "--photo", "p.png", "--seeds", ",".join(map(str, range(9))),
                   "-o", "{index}.png", "--server", engine.url)  # fmt: skip
        status, out, _ = ryla(*command, "--json")
        assert status == 5 and "changed after this job" in out
        engine.on_execute = lambda: None
        body = _made(ryla, *command)
        truth = _Truth(engine)
        assert {truth.photo(file) for file in body["files"].values()} == {Path("p.png").read_bytes()}


def test_an_edited_workflow_makes_the_picture_anew_but_a_title_does_not(ryla: Any, tmp_path: Path) -> None:
    api = tmp_path / "workflows" / "paint" / "api.json"
    with FakeEngine(seconds=0.0) as engine:
        command = ("paint", "--prompt", "a", "--seeds", "1", "-o", "{index}.png", "--server", engine.url)
        _made(ryla, *command)
        api.write_text(api.read_text().replace('"filename_prefix": "p"', '"filename_prefix": "q"'))
        assert _made(ryla, *command)["files"] == {"1": "1-2.png"}
        nodes = json.loads(api.read_text())
        nodes["2"]["_meta"]["note"] = "only for people"
        api.write_text(json.dumps(nodes))
        assert _made(ryla, *command)["files"] == {"1": "1-2.png"}
        assert len(engine.executions) == 2


def test_a_lora_counts_by_its_bytes_when_it_is_here(tmp_path: Path) -> None:
    _with_photo(tmp_path / "workflows")
    _photo(tmp_path / "p.png", 1)
    folder = tmp_path / "volume" / "loras"
    folder.mkdir(parents=True)
    environment = settings.load(
        {"RYLA_WORKFLOWS": str(tmp_path / "workflows"), "RYLA_VOLUME": str(tmp_path / "volume")}
    )
    values = {"prompt": "a", "seed": 1, "photo": str(tmp_path / "p.png"), "lora_id": "anna"}
    prompt = bind(load("photo", environment), values)

    def taken() -> Fingerprint:
        fresh = Fingerprints(environment)
        return fresh.of(fresh.sealed(prompt))

    absent = taken()
    (folder / "anna.safetensors").write_bytes(b"one")
    one = taken()
    (folder / "anna.safetensors").write_bytes(b"two")
    two = taken()
    assert absent.loras == {} and not one.same(two) and one.same(absent) and absent.same(two)


def test_a_picture_that_was_edited_is_not_of_its_row_and_stays(ryla: Any) -> None:
    with FakeEngine(seconds=0.0) as engine:
        command = ("paint", "--prompt", "a", "--seeds", "1", "-o", "{index}.png", "--server", engine.url)
        _made(ryla, *command)
        Image.new("RGB", (3, 3)).save("1.png")
        edited = Path("1.png").read_bytes()
        assert _made(ryla, *command)["files"] == {"1": "1-2.png"} and Path("1.png").read_bytes() == edited


def test_a_stranger_in_the_folder_is_not_overwritten(ryla: Any) -> None:
    Path("1.png").write_text("my notes")
    with FakeEngine("two pictures", seconds=0.0) as engine:
        Path("1-3.png").write_text("more notes")
        command = ("paint", "--prompt", "a", "--seeds", "1", "-o", "{index}.png", "--server", engine.url)
        assert _made(ryla, *command)["pictures"] == {"1": ["1-2.png", "1-4.png"]}
    assert Path("1.png").read_text() == "my notes" and Path("1-3.png").read_text() == "more notes"


@pytest.mark.parametrize("name", ["results.jsonl", "sheet.png"])
def test_a_picture_takes_the_place_of_no_other_file_of_the_batch(ryla: Any, name: str) -> None:
    template = "{prompt}.png"
    prompt = "sheet" if name == "sheet.png" else "x"
    with FakeEngine(seconds=0.0) as engine:
        body = _made(ryla, "paint", "--prompt", prompt, "--seeds", "1", "-o", template, "--contact-sheet", "sheet.png",
                     "--server", engine.url)  # fmt: skip
    (file,) = body["files"].values()
    assert _prompt_id(Path(file)) and file != name


def test_rows_with_several_pictures_lose_none(ryla: Any) -> None:
    with FakeEngine("two pictures", seconds=0.0) as engine:
        command = ("paint", "--prompt", "noise", "--seeds", "1,2,3", "-o", "{prompt}.png", "--server", engine.url)
        body = _made(ryla, *command)
        files = [file for row in body["pictures"].values() for file in row]
        assert len(files) == 6 == len(set(files)) == len(list(Path().glob("*.png")))
        for index, names in body["pictures"].items():
            ids = {_prompt_id(Path(name)) for name in names}
            assert len(ids) == 1 and _Truth(engine).graph(Path(names[0]))["1"]["inputs"]["seed"] == int(index)
        assert _made(ryla, *command)["pictures"] == body["pictures"] and len(engine.executions) == 3


def test_each_picture_of_a_row_counts_when_the_batch_goes_on(ryla: Any) -> None:
    with FakeEngine("two pictures", seconds=0.0) as engine:
        command = ("paint", "--prompt", "noise", "--seeds", "1,2", "-o", "{index}.png", "--server", engine.url)
        before = _made(ryla, *command)["pictures"]
        Path(before["1"][1]).unlink()
        assert _made(ryla, *command)["pictures"] == before and len(engine.executions) == 3
        assert len(list(Path().glob("*.png"))) == 4


def test_names_without_a_suffix_are_distinct_over_all_pictures(tmp_path: Path) -> None:
    picture = Picture(b"\x89PNG\r\n\x1a\n", Format.PNG, "9", "a.png", "", "output")
    claims = Claims()
    planned = [claims.plan(tmp_path / "v1.5"), claims.plan(tmp_path / "V1.5"), claims.plan(tmp_path / "v1.5")]
    written = [path for plan in planned for path in save([picture] * 3, plan, Claim(claims, plan, ()))]
    assert len({str(path).casefold() for path in written}) == 9 == len(list(tmp_path.iterdir()))
    assert all(path.suffix == ".png" for path in written)


def test_a_picture_that_a_killed_runner_had_saved_is_not_saved_again(ryla: Any) -> None:
    with FakeEngine(seconds=0.0) as engine:
        command = ("paint", "--prompt", "a", "--seeds", "5", "-o", "{seed}.png", "--server", engine.url)
        _made(ryla, *command)
        journal = Path("results.jsonl")
        journal.write_text(journal.read_text().splitlines()[0] + "\n")
        assert _made(ryla, *command)["files"] == {"1": "5.png"}
        assert len(engine.executions) == 1 and [path.name for path in Path().glob("*.png")] == ["5.png"]


def test_a_job_that_was_edited_while_it_ran_is_not_taken_up(ryla: Any, tmp_path: Path) -> None:
    api = tmp_path / "workflows" / "paint" / "api.json"
    with FakeEngine(seconds=0.0) as engine:
        command = ("paint", "--prompt", "a", "--seeds", "5", "-o", "{seed}.png", "--server", engine.url)
        _made(ryla, *command)
        journal = Path("results.jsonl")
        journal.write_text(journal.read_text().splitlines()[0] + "\n")
        Path("5.png").unlink()
        api.write_text(api.read_text().replace('"filename_prefix": "p"', '"filename_prefix": "q"'))
        _made(ryla, *command)
        assert _Truth(engine).graph(Path("5.png"))["2"]["inputs"]["filename_prefix"] == "q"


def test_an_old_journal_is_read_and_nothing_of_it_is_lost(ryla: Any) -> None:
    with FakeEngine(seconds=0.0) as engine:
        command = ("paint", "--prompt", "a", "--count", "2", "-o", "{index}.png", "--server", engine.url)
        _made(ryla, *command)
        journal, old = Path("results.jsonl"), []
        for line in journal.read_text().splitlines():
            entry = json.loads(line)
            for key in ("job", "loras", "sha256", "nonce"):
                entry.pop(key, None)
            old.append(json.dumps(entry))
        journal.write_text("\ufeff" + "\n".join(old) + "\n", encoding="utf-8")
        before = {path.name: path.read_bytes() for path in Path().glob("*.png")}
        seeds = [graph["1"]["inputs"]["seed"] for graph in engine.graphs]
        body = _made(ryla, *command)
        assert "earlier version" in body["warnings"][0]
        assert {path: Path(path).read_bytes() for path in before} == before
        assert sorted(seeds) == sorted(graph["1"]["inputs"]["seed"] for graph in engine.graphs[2:])
        assert journal.read_text(encoding="utf-8-sig").startswith("\n".join(old))


def test_columns_at_their_defaults_and_other_spellings_are_the_same_job(ryla: Any) -> None:
    with FakeEngine(seconds=0.0) as engine:
        command = ("paint", "-o", "{index}.png", "--server", engine.url, "--batch")
        _rows(Path("b.csv"), [{"prompt": "a", "seed": "1"}, {"prompt": "a", "seed": "1"}])
        before = _made(ryla, *command, "b.csv")["files"]
        Path("b.jsonl").write_text('{"prompt": "a", "seed": 1}\n' * 3)
        after = _made(ryla, *command, "b.jsonl")["files"]
        # Equal rows have a picture each, and one more of them one more.
        assert len(set(after.values())) == 3 and set(before.values()) < set(after.values())
        assert len(engine.executions) == 3


def test_every_file_is_of_the_row_that_claims_it(ryla: Any, tmp_path: Path) -> None:
    """Two workflows share a template; rows are edited and photos swapped between three resumes."""
    dice = random.Random(7)
    root = tmp_path / "workflows"
    _with_photo(root), _with_photo(root, "sketch")
    photos = [f"p{number}.png" for number in range(5)]
    for number, name in enumerate(photos):
        _photo(Path(name), number)
    rows: list[dict[str, object]] = [
        {"prompt": f"row {number}", "seed": number, "photo": photos[number % 5]} for number in range(ROWS)
    ]
    environment = settings.load({"RYLA_WORKFLOWS": str(root)})
    ever: dict[str, bytes] = {}
    asked: Counter[str] = Counter()
    with FakeEngine("two pictures", seconds=0.0) as engine:
        truth = _Truth(engine)
        for turn in range(4):
            for row in rows if turn else []:
                if dice.random() < 0.2:
                    row["prompt"] = dice.choice((f"edited {turn}", f"row {row['seed']}"))
            if turn:
                one, other = dice.sample(photos, 2)
                Path(one).rename("t"), Path(other).rename(one), Path("t").rename(other)
            dice.shuffle(rows)
            _rows(Path("b.csv"), rows)
            for name in ("photo", "sketch"):
                fingerprints = Fingerprints(environment)
                body = _made(ryla, name, "--batch", "b.csv", "-o", "{index:04}.png", "--results", f"{name}.jsonl",
                             "--server", engine.url)  # fmt: skip
                workflow = load(name, environment)
                for index, row in enumerate(rows, 1):
                    prompt = bind(workflow, row)
                    job = f"{name} {fingerprints.of(fingerprints.sealed(prompt)).job}"
                    files = body["pictures"][str(index)]
                    assert len(files) == 2
                    for file in files:
                        graph = truth.graph(Path(file))
                        assert graph["1"]["inputs"] == prompt.graph["1"]["inputs"]
                        assert truth.photo(file) == Path(str(row["photo"])).read_bytes()
                    asked[job] += not asked[job]
                claimed = [file for files in body["pictures"].values() for file in files]
                assert len(claimed) == len(set(claimed)) == 2 * ROWS
                for file, data in ever.items():
                    assert Path(file).read_bytes() == data, "overwritten"
                ever.update({path.name: path.read_bytes() for path in Path().glob("[0-9]*.png")})
        assert len(engine.executions) == sum(asked.values()), "made twice"
