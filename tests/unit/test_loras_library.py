"""Adding, removing and listing LoRAs: the commands a user types, on real folders."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import lora_files
import pytest
from ryla_nodes import settings
from ryla_nodes.cli import app
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import library
from ryla_nodes.loras.inspect import inspect
from ryla_nodes.loras.store import LoraStore
from ryla_nodes.models import shipped
from typer.testing import CliRunner

Ryla = Callable[..., dict[str, Any]]


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty volume; no ComfyUI."""
    for name in [name for name in os.environ if name.startswith("RYLA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RYLA_VOLUME", str(tmp_path / "volume"))
    monkeypatch.setenv("RYLA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RYLA_COMFYUI", str(tmp_path / "comfyui"))
    return tmp_path / "volume"


@pytest.fixture
def ryla(volume: Path) -> Ryla:
    """``ryla loras ... --json``: the object printed, or that of the error."""
    runner = CliRunner()

    def run(*words: object) -> dict[str, Any]:
        result = runner.invoke(app.app, ["loras", *map(str, words), "--json"])
        if isinstance(result.exception, RylaError):
            return {"ok": False, **result.exception.as_dict()}
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout))

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return lora_files.small(tmp_path / "anna_v3.safetensors", "ohwx")


def own(listed: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of all LoRAs but those that ship with the package."""
    return [row for row in listed["loras"] if not shipped.holds(Path(row["path"]))]


class TestAdd:
    def test_copies_the_file_and_writes_the_sidecar(self, ryla: Ryla, volume: Path, file: Path) -> None:
        added = ryla("add", file, "--id", "7", "--trigger", "zxc woman")
        copy = volume / "loras" / "7.safetensors"
        assert added["ok"] and added["path"] == str(copy) and added["id"] == "7"
        assert copy.read_bytes() == file.read_bytes()
        assert json.loads((volume / "loras" / "7.json").read_text()) == {
            "trigger_word": "zxc woman",
            "source": "anna_v3.safetensors",
        }
        assert inspect(copy).trigger_word == "zxc woman"
        assert {path.name for path in copy.parent.iterdir()} == {"7.safetensors", "7.json"}

    def test_takes_name_and_trigger_from_the_file(self, ryla: Ryla, volume: Path, file: Path) -> None:
        assert ryla("add", file)["id"] == "anna_v3"
        assert json.loads((volume / "loras" / "anna_v3.json").read_text())["trigger_word"] == "ohwx"

    def test_keeps_what_the_sources_sidecar_says(self, ryla: Ryla, volume: Path, file: Path) -> None:
        file.with_suffix(".json").write_text('{"activation text": "abc", "preferred weight": 0.8}')
        ryla("add", file)
        kept = json.loads((volume / "loras" / "anna_v3.json").read_text())
        assert (kept["trigger_word"], kept["preferred weight"]) == ("abc", 0.8)

    def test_refuses_to_overwrite_without_force(self, ryla: Ryla, volume: Path, tmp_path: Path, file: Path) -> None:
        ryla("add", file, "--id", "character-7")
        other = lora_files.small(tmp_path / "other.safetensors", "new")
        for lora_id in ("character-7", "7", "flux-character-7"):
            assert ryla("add", other, "--id", lora_id)["code"] == "lora_exists"
        assert inspect(volume / "loras" / "character-7.safetensors").trigger_word == "ohwx"
        assert ryla("add", other, "--id", "7", "--force")["path"] == str(volume / "loras" / "character-7.safetensors")
        assert [row["trigger_word"] for row in own(ryla("list"))] == ["new"]

    def test_beside_the_pickle_that_it_was_converted_from(self, ryla: Ryla, volume: Path, file: Path) -> None:
        (volume / "loras").mkdir(parents=True)
        (volume / "loras" / "7.pt").touch()
        assert ryla("inspect", "7")["code"] == "lora_pickle"
        assert ryla("add", file, "--id", "7")["ok"]

    def test_over_a_link_only_with_force(self, ryla: Ryla, volume: Path, tmp_path: Path, file: Path) -> None:
        (volume / "loras").mkdir(parents=True)
        secret = lora_files.small(tmp_path / "secret.safetensors", "secret")
        (volume / "loras" / "7.safetensors").symlink_to(secret)
        assert ryla("add", file, "--id", "7")["code"] == "lora_outside_folders"
        assert ryla("add", file, "--id", "7", "--force")["trigger_word"] == "ohwx"
        assert inspect(secret).trigger_word == "secret" and not (volume / "loras" / "7.safetensors").is_symlink()

    def test_into_a_sub_folder(self, ryla: Ryla, volume: Path, file: Path) -> None:
        assert ryla("add", file, "--id", "styles/anna")["id"] == "styles/anna"
        assert (volume / "loras" / "styles" / "anna.safetensors").is_file()

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (["--id", "../7"], "invalid_lora_id"),
            (["--id", "a,b"], "invalid_lora_id"),
            (["--id", "7.pt"], "lora_pickle"),
        ],
    )
    def test_refuses_bad_ids(self, ryla: Ryla, volume: Path, file: Path, words: list[str], code: str) -> None:
        assert ryla("add", file, *words)["code"] == code
        assert not list(volume.rglob("*"))

    @pytest.mark.parametrize(
        ("name", "content", "code"),
        [
            ("7.safetensors", b"", "empty_file"),
            ("7.safetensors", b"<html>", "not_safetensors"),
            ("7.pt", b"x", "lora_pickle"),
            ("pytorch_lora_weights.safetensors", None, "invalid_lora_id"),
        ],
    )
    def test_refuses_bad_files(
        self, ryla: Ryla, volume: Path, tmp_path: Path, name: str, content: bytes | None, code: str
    ) -> None:
        path = lora_files.small(tmp_path / "in" / name)
        if content is not None:
            path.write_bytes(content)
        assert ryla("add", path)["code"] == code
        for nowhere in (tmp_path / "gone.safetensors", tmp_path):
            refused = ryla("add", nowhere)
            assert refused["code"] == "unreadable_file" and str(nowhere) in refused["message"]
        assert not list(volume.rglob("*"))

    def test_a_full_or_read_only_disk_leaves_nothing(
        self, volume: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number, code in ((errno.ENOSPC, "disk_full"), (errno.EROFS, "not_writable")):

            def fail(source: Path, target: Path, number: int = number) -> None:
                target.write_bytes(b"half")
                raise OSError(number, os.strerror(number), str(target))

            monkeypatch.setattr(shutil, "copyfile", fail)
            with pytest.raises(RylaError) as raised:
                library.add(file, volume / "loras")
            assert raised.value.code == code
            assert not list((volume / "loras").iterdir())

    def test_a_link_that_leads_out_is_not_written_through(self, volume: Path, tmp_path: Path, file: Path) -> None:
        (volume / "loras").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        (volume / "loras" / "out").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        with pytest.raises(RylaError) as raised:
            library.add(file, volume / "loras", lora_id="out/7")
        assert raised.value.code == "lora_outside_folders"
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_without_hard_links_it_is_moved_into_place(
        self, volume: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_links(self: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(Path, "hardlink_to", no_links)
        assert library.add(file, volume / "loras", lora_id="7").path.read_bytes() == file.read_bytes()


class TestNamesThatNobodyCanSay:
    @pytest.mark.parametrize(
        ("name", "suggested"),
        [
            ("anna, v3 (final)", "anna-v3-final"),
            ("-rf", "rf"),
            ("anna\nbob", "anna-bob"),
            ("Zo\u0308e\u200b 7", "Zoe-7"),
            ("anna.", "anna"),
            ("con", "ID"),
            ("\u5c0f, \u7ea2", "ID"),
        ],
    )
    def test_get_an_id_to_give(self, ryla: Ryla, volume: Path, tmp_path: Path, name: str, suggested: str) -> None:
        path = lora_files.small(tmp_path / f"{name}.safetensors")
        refused = ryla("add", path)
        assert refused["code"] == "invalid_lora_id" and refused["hint"].endswith(f"--id {suggested}")
        assert ryla("add", path, "--id", "7")["ok"]

    def test_of_bytes_that_are_no_text(self, ryla: Ryla, volume: Path, tmp_path: Path) -> None:
        path = lora_files.small(tmp_path / os.fsdecode(b"an\xffna.safetensors"))
        assert ryla("add", path)["hint"].endswith("--id anna")
        added = ryla("add", path, "--id", "anna")
        assert added["ok"]
        assert json.loads((volume / "loras" / "anna.json").read_text())["source"] == "an?na.safetensors"

    def test_in_a_folder_are_listed_with_what_to_do(self, ryla: Ryla, volume: Path) -> None:
        lora_files.small(volume / "loras" / "a,b.safetensors")
        (row,) = own(ryla("list"))
        assert row["code"] == "invalid_lora_id" and row["error"].endswith("Rename the file.")

    def test_capitals_of_the_suffix_are_no_part_of_the_id(self, ryla: Ryla, volume: Path, tmp_path: Path) -> None:
        for name in ("anna.SAFETENSORS", "bea.sft"):
            assert ryla("add", lora_files.small(tmp_path / name))["id"] == name.split(".")[0]


class TestLinks:
    def test_that_are_passed_over_are_listed_and_RYLA_LORA_ROOTS_lets_them_be_followed(
        self, ryla: Ryla, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lora_files.small(tmp_path / "data" / "anna.safetensors", "ohwx")
        (volume / "loras").mkdir(parents=True)
        (volume / "loras" / "Lora").symlink_to(tmp_path / "data", target_is_directory=True)
        assert ryla("list")["passed_over"] == [str(volume / "loras" / "Lora")] and own(ryla("list")) == []
        monkeypatch.setenv("RYLA_LORA_ROOTS", os.pathsep.join((str(tmp_path / "x"), str(tmp_path / "data"))))
        assert ryla("list")["passed_over"] == []
        assert [row["id"] for row in own(ryla("list"))] == ["Lora/anna"]
        assert ryla("inspect", "Lora/anna")["trigger_word"] == "ohwx"

    def test_into_another_model_folder_of_the_volume_are_followed(self, ryla: Ryla, volume: Path) -> None:
        lora_files.small(volume / "checkpoints" / "anna.safetensors", "ohwx")
        (volume / "loras").mkdir(parents=True)
        (volume / "loras" / "7.safetensors").symlink_to(volume / "checkpoints" / "anna.safetensors")
        assert ryla("inspect", "7")["trigger_word"] == "ohwx"


class TestRemove:
    def test_takes_file_and_sidecar(self, ryla: Ryla, volume: Path, file: Path) -> None:
        ryla("add", file, "--id", "7")
        ryla("add", file, "--id", "8")
        removed = ryla("remove", "character-7")["removed"]
        assert [Path(path).name for path in removed] == ["7.safetensors", "7.json"]
        assert [row["id"] for row in own(ryla("list"))] == ["8"]
        assert ryla("remove", "7")["code"] == "lora_not_found"

    def test_takes_an_empty_training_folder_too(self, ryla: Ryla, volume: Path) -> None:
        lora_files.small(volume / "loras" / "character-7" / "pytorch_lora_weights.safetensors")
        ryla("remove", "7")
        assert not (volume / "loras" / "character-7").exists()
        path = lora_files.small(volume / "loras" / "character-8" / "pytorch_lora_weights.safetensors")
        (path.parent / "log.txt").touch()
        ryla("remove", "8")
        assert [path.name for path in path.parent.iterdir()] == ["log.txt"]

    def test_refuses_an_ambiguous_id_and_takes_a_file_name(self, ryla: Ryla, volume: Path) -> None:
        for name in ("7", "character-7"):
            lora_files.small(volume / "loras" / f"{name}.safetensors")
        refused = ryla("remove", "7")
        assert refused["code"] == "ambiguous_lora" and len(refused["details"]["files"]) == 2
        ryla("remove", "character-7.safetensors")
        assert [row["path"] for row in own(ryla("list"))] == [str(volume / "loras" / "7.safetensors")]


class TestShipped:
    """mira, in two formats: there without anybody putting it there."""

    def test_is_listed_with_its_trigger_word(self, ryla: Ryla, volume: Path) -> None:
        rows = {row["id"]: row for row in ryla("list")["loras"]}
        told = {name: (row["family"], row["format"], row["trigger_word"]) for name, row in rows.items()}
        assert told == {"mira": ("flux", "kohya", "mira"), "mira-diffusers": ("flux", "diffusers", "mira")}
        assert ryla("inspect", "mira")["trigger_word"] == "mira"

    def test_a_file_of_the_users_goes_before_it(self, ryla: Ryla, volume: Path, file: Path) -> None:
        added = ryla("add", file, "--id", "mira")
        assert added["path"] == str(volume / "loras" / "mira.safetensors") == ryla("inspect", "mira")["path"]
        assert added["also"] == [str(shipped.ROOT / "loras" / "mira.safetensors")]
        ryla("remove", "mira.safetensors")
        assert ryla("inspect", "mira")["path"] == str(shipped.ROOT / "loras" / "mira.safetensors")

    def test_is_never_removed(self, ryla: Ryla, volume: Path) -> None:
        assert ryla("remove", "mira")["code"] == "not_writable"
        assert (shipped.ROOT / "loras" / "mira.safetensors").is_file()


class TestList:
    def test_one_bad_file_does_not_hide_the_others(self, ryla: Ryla, volume: Path, file: Path) -> None:
        ryla("add", file, "--id", "7")
        (volume / "loras" / "8.safetensors").touch()
        (volume / "loras" / "7.json").write_text("{")
        lora_files.small(volume / "loras" / "a,b.safetensors")
        rows = {row["id"]: row for row in own(ryla("list"))}
        assert {name: row.get("code") for name, row in rows.items()} == {
            "7": "invalid_sidecar",
            "8": "empty_file",
            "a,b": "invalid_lora_id",
        }

    def test_shows_its_folders_in_their_order(self, ryla: Ryla, tmp_path: Path, volume: Path) -> None:
        comfyui = tmp_path / "comfyui"
        (comfyui / "models" / "loras").mkdir(parents=True)
        for name in ("main.py", "nodes.py", "folder_paths.py"):
            (comfyui / name).touch()
        (comfyui / "comfy").mkdir()
        expected = [volume / "loras", comfyui / "models" / "loras", tmp_path / "home" / "models" / "loras"]
        assert ryla("list")["folders"] == [*map(str, expected), str(shipped.ROOT / "loras")]
        for folder in expected:
            lora_files.small(folder / "7.safetensors")
        assert library.roots(settings.load()) == (*expected, shipped.ROOT / "loras")
        assert LoraStore(expected).find("7").path == expected[0] / "7.safetensors"

    def test_people_get_a_table(self, volume: Path, file: Path) -> None:
        library.add(file, volume / "loras", lora_id="7")
        script = "from ryla_nodes.cli.app import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script, "loras", "list"], capture_output=True, text=True, check=True
        )
        assert done.stdout == ""
        for word in ("family", "FLUX.1", "ohwx", "7"):
            assert word in done.stderr

    def test_inspect_says_everything(self, ryla: Ryla, volume: Path, file: Path) -> None:
        ryla("add", file, "--id", "7")
        lora_files.small(volume / "loras" / "flux-character-7.safetensors")
        told = ryla("inspect", "7.safetensors")
        assert (told["family"], told["format"], told["rank"], told["trigger_word"]) == ("flux", "kohya", [2, 2], "ohwx")
        assert len(ryla("inspect", "7")["also"]) == 1


class Offering(BaseHTTPRequestHandler):
    """As much of a ComfyUI as ``ryla loras list`` asks."""

    answers: dict[str, tuple[int, Any]] = {}

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, None))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[str]:
    Offering.answers = {
        "/system_stats": (200, {"system": {"comfyui_version": "0.3.64"}, "devices": [{"name": "cpu"}]}),
        "/models/loras": (200, ["character-7.safetensors", "styles\\anna.safetensors", "old.pt"]),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Offering)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class TestListOfAnEngine:
    def test_is_what_the_engine_offers(self, ryla: Ryla, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = [("7", "character-7.safetensors"), ("styles/anna", "styles/anna.safetensors")]  # No pickle.
        assert [(row["id"], row["file"]) for row in ryla("list", "--server", engine)["loras"]] == expected
        monkeypatch.setenv("RYLA_SERVER", engine)
        assert len(ryla("list")["loras"]) == 2
        assert own(ryla("list", "--local")) == []

    def test_that_fails_says_why(self, ryla: Ryla, engine: str) -> None:
        Offering.answers["/models/loras"] = (500, None)
        assert ryla("list", "--server", engine)["code"] == "engine_error"
        assert ryla("list", "--server", "http://127.0.0.1:9")["code"] == "engine_unreachable"


def test_the_real_program_prints_one_json_object_for_an_error(volume: Path) -> None:
    script = "from ryla_nodes.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "loras", "inspect", "7", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3 and done.stderr == ""
    assert json.loads(done.stdout)["error"]["code"] == "lora_not_found"
