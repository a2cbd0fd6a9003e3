"""Forms of a LoRA id against layouts of the folders, on a real file system."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import ids, refresh, store
from ryla_nodes.loras.store import LoraStore

UUID = "3f2a77de-9c1b-4b0a-8f4e-0c9d1a2b3c4d"
WEIGHTS = "pytorch_lora_weights.safetensors"


def make(base: Path, *files: str) -> LoraStore:
    """A volume (``v/``) and an engine's folder (``c/``); a later file is a newer one."""
    for root in ("v", "c"):
        (base / root).mkdir(exist_ok=True)
    for age, name in enumerate(files):
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (1_600_000_000 + age, 1_600_000_000 + age))
    return LoraStore([base / "v", base / "c"])


FOUND = [
    # A bare id finds each form of name.
    ("7", ["v/7.safetensors"], "v/7.safetensors"),
    ("7", ["v/character-7.safetensors"], "v/character-7.safetensors"),
    ("7", ["v/flux-character-7.safetensors"], "v/flux-character-7.safetensors"),
    ("7", [f"v/character-7/{WEIGHTS}"], f"v/character-7/{WEIGHTS}"),
    ("abc123", ["c/abc123.safetensors"], "c/abc123.safetensors"),
    (" 7 ", ["v/7.safetensors"], "v/7.safetensors"),
    # So does a prefixed one: never character-character-7.
    ("character-7", ["v/character-7.safetensors"], "v/character-7.safetensors"),
    ("character-7", ["v/7.safetensors"], "v/7.safetensors"),
    ("character-7", ["v/flux-character-7.safetensors"], "v/flux-character-7.safetensors"),
    ("character-7", [f"v/character-7/{WEIGHTS}"], f"v/character-7/{WEIGHTS}"),
    ("flux-character-7", ["v/flux-character-7.safetensors"], "v/flux-character-7.safetensors"),
    ("flux-character-7", ["v/character-7.safetensors"], "v/character-7.safetensors"),
    ("flux-character-7", [f"v/character-7/{WEIGHTS}"], f"v/character-7/{WEIGHTS}"),
    ("character-character-7", ["v/character-7.safetensors"], "v/character-7.safetensors"),
    ("Character-7", ["v/character-7.safetensors"], "v/character-7.safetensors"),
    ("character-", ["v/character-.safetensors"], "v/character-.safetensors"),
    # UUIDs, whatever their case.
    (UUID, [f"v/{UUID}.safetensors"], f"v/{UUID}.safetensors"),
    (UUID, [f"v/flux-character-{UUID}.safetensors"], f"v/flux-character-{UUID}.safetensors"),
    (UUID.upper(), [f"v/character-{UUID}.safetensors"], f"v/character-{UUID}.safetensors"),
    (f"character-{UUID}", [f"v/character-{UUID}/{WEIGHTS}"], f"v/character-{UUID}/{WEIGHTS}"),
    # File names.
    ("7.safetensors", ["v/7.safetensors"], "v/7.safetensors"),
    ("character-7.safetensors", ["v/character-7.safetensors"], "v/character-7.safetensors"),
    ("character-7.safetensors", ["v/flux-character-7.safetensors"], "v/flux-character-7.safetensors"),
    ("7.SafeTensors", ["v/7.safetensors"], "v/7.safetensors"),
    ("anna v1.5", ["v/anna v1.5.safetensors"], "v/anna v1.5.safetensors"),
    ("qwen-character-7", ["v/qwen-character-7.safetensors"], "v/qwen-character-7.safetensors"),
    ("styles/anna", ["c/styles/anna.safetensors"], "c/styles/anna.safetensors"),
    ("styles/7", ["c/styles/flux-character-7.safetensors"], "c/styles/flux-character-7.safetensors"),
    ("styles/anna.safetensors", ["c/styles/anna.safetensors"], "c/styles/anna.safetensors"),
    ("Zoë", ["v/Zoe\u0308.safetensors"], "v/Zoe\u0308.safetensors"),
    ("Zoe\u0308", ["v/Zoë.safetensors"], "v/Zoë.safetensors"),
    ("小红", ["v/小红.safetensors"], "v/小红.safetensors"),
    # The volume before the engine's folder, then the newest.
    ("7", ["v/7.safetensors", "c/7.safetensors"], "v/7.safetensors"),
    ("7", ["v/character-7.safetensors", "c/7.safetensors"], "v/character-7.safetensors"),
    ("7", ["v/7.safetensors", "v/flux-character-7.safetensors"], "v/flux-character-7.safetensors"),
    ("7", ["v/flux-character-7.safetensors", "v/7.safetensors"], "v/7.safetensors"),
    ("character-7", ["v/character-7.safetensors", "v/flux-character-7.safetensors"], "v/flux-character-7.safetensors"),
    ("7", [f"v/character-7/{WEIGHTS}", "v/character-7.safetensors"], "v/character-7.safetensors"),
    # A file named with its suffix is that file, wherever it is.
    ("7.safetensors", ["v/7.safetensors", "v/character-7.safetensors"], "v/7.safetensors"),
    ("7.safetensors", ["v/character-7.safetensors", "c/7.safetensors"], "c/7.safetensors"),
    # What is no file is passed over.
    ("7", ["v/7.safetensors/inside", "c/7.safetensors"], "c/7.safetensors"),
    ("8", ["v/character-8/other.safetensors", "c/8.safetensors"], "c/8.safetensors"),
]

REFUSED = [
    ("", "invalid_lora_id"),
    ("   ", "invalid_lora_id"),
    (".", "invalid_lora_id"),
    ("..", "invalid_lora_id"),
    ("../secret", "invalid_lora_id"),
    ("../secret.safetensors", "invalid_lora_id"),
    ("styles/../../secret", "invalid_lora_id"),
    ("character-../../secret", "invalid_lora_id"),
    ("./7", "invalid_lora_id"),
    ("7/", "invalid_lora_id"),
    ("a//b", "invalid_lora_id"),
    ("/etc/passwd", "invalid_lora_id"),
    ("//server/share/x", "invalid_lora_id"),
    ("\\\\server\\share\\x", "invalid_lora_id"),
    ("..\\secret", "invalid_lora_id"),
    ("C:\\secret", "invalid_lora_id"),
    ("C:secret", "invalid_lora_id"),
    ("7.safetensors:stream", "invalid_lora_id"),
    ("7\0", "invalid_lora_id"),
    ("7\0.safetensors", "invalid_lora_id"),
    ("7\x1b[31m", "invalid_lora_id"),
    (".hidden", "invalid_lora_id"),
    ("styles/.hidden", "invalid_lora_id"),
    ("7.", "invalid_lora_id"),
    ("7 .safetensors", "invalid_lora_id"),
    ("CON", "invalid_lora_id"),
    ("nul.safetensors", "invalid_lora_id"),
    ("styles/com1.x", "invalid_lora_id"),
    ("．．／secret", "invalid_lora_id"),
    ("‥/secret", "invalid_lora_id"),
    ("..∕secret", "invalid_lora_id"),
    ("a⁄b", "invalid_lora_id"),
    ("７", "invalid_lora_id"),
    ("7\u200b", "invalid_lora_id"),
    ("7\u202e", "invalid_lora_id"),
    ("7\u00a08", "invalid_lora_id"),
    ("7\ud800", "invalid_lora_id"),
    ("7,8", "invalid_lora_id"),
    ("7; rm -rf /", "invalid_lora_id"),
    ("7\n8", "invalid_lora_id"),
    ("x" * 201, "invalid_lora_id"),
    ("é" * 101, "invalid_lora_id"),
    ("x" * 10_000_000, "invalid_lora_id"),
    ("*", "invalid_lora_id"),
    ("7.pt", "lora_pickle"),
    ("7.CKPT", "lora_pickle"),
    ("character-7.bin", "lora_pickle"),
    ("secret", "lora_not_found"),
    ("70", "lora_not_found"),
    ("~/secret", "lora_not_found"),
    ("%2e%2e%2fsecret", "lora_not_found"),
    ("$HOME", "lora_not_found"),
]


def test_the_table_has_at_least_forty_layouts() -> None:
    assert len(FOUND) >= 40 and len(REFUSED) >= 40


@pytest.mark.parametrize(("lora_id", "files", "expected"), FOUND, ids=[f"{row[0]}-{row[2]}" for row in FOUND])
def test_find(tmp_path: Path, lora_id: str, files: list[str], expected: str) -> None:
    found = make(tmp_path, *files).find(lora_id)
    assert found.path == tmp_path / expected
    assert found.path.is_file() and found.root / found.name == found.path
    candidates = [tmp_path / file for file in files if (tmp_path / file).suffix == ".safetensors"]
    assert {found.path, *found.also} <= set(candidates)


@pytest.mark.parametrize(("lora_id", "code"), REFUSED, ids=[ascii(row[0][:24]) for row in REFUSED])
def test_refuse(tmp_path: Path, lora_id: str, code: str) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    with pytest.raises(RylaError) as raised:
        make(tmp_path, "v/7.safetensors", "c/styles/anna.safetensors").find(lora_id)
    assert raised.value.code == code
    assert len(raised.value.message) < 800, "a hostile id must not flood the log"


def test_not_text_is_refused(tmp_path: Path) -> None:
    for value in (7, None, ["7"], b"7"):
        with pytest.raises(RylaError, match="not text"):
            make(tmp_path).find(value)  # type: ignore[arg-type]


def test_all_hits_are_named_newest_first(tmp_path: Path) -> None:
    files = ["v/7.safetensors", "v/character-7.safetensors", "c/7.safetensors", f"v/character-7/{WEIGHTS}"]
    found = make(tmp_path, *files).find("7")
    assert found.path == tmp_path / files[3]
    assert found.also == (tmp_path / files[1], tmp_path / files[0], tmp_path / files[2])


def test_a_job_looks_an_id_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora_store = make(tmp_path, "v/7.safetensors", "c/character-8.safetensors")
    for root in ("v", "c"):
        os.utime(tmp_path / root, (1_600_000_000, 1_600_000_000))
    looked: list[str] = []
    real = store._file
    monkeypatch.setattr(store, "_file", lambda root, name, search: looked.append(name) or real(root, name, search))
    first = lora_store.find("7")
    count = len(looked)
    assert [lora_store.find("7") for _ in range(2)] == [first, first] and len(looked) == count > 0
    # What is newer, gone, or rewritten in place is seen at once all the same.
    newer = tmp_path / "v" / "flux-character-7.safetensors"
    newer.write_bytes(b"new")
    assert lora_store.find("7").path == newer
    newer.unlink()
    assert lora_store.find("7").path == first.path
    first.path.write_bytes(b"longer than before")
    assert lora_store.find("7").size == len(b"longer than before")


def test_an_answer_is_not_kept_for_ever_where_folders_do_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora_store = make(tmp_path, "v/7.safetensors")
    monkeypatch.setattr(store, "_mtimes", lambda folders: dict.fromkeys(folders, 1))
    lora_store.find("7")
    newer = tmp_path / "v" / "character-7.safetensors"
    newer.write_bytes(b"new")
    later = time.monotonic() + store._KEPT_S
    monkeypatch.setattr(store.time, "monotonic", lambda: later)
    assert lora_store.find("7").path == newer


def test_unknown_id_names_folders_candidates_and_the_three_nearest(tmp_path: Path) -> None:
    lora_store = make(
        tmp_path,
        "v/character-anna.safetensors",
        "v/hanna.safetensors",
        "c/styles/annabel.safetensors",
        "c/zzz.safetensors",
    )
    with pytest.raises(RylaError) as raised:
        lora_store.find("anma")
    error = raised.value
    assert error.details["nearest"] == ["anna", "hanna", "styles/annabel"]
    for part in (
        str(tmp_path / "v"),
        str(tmp_path / "c"),
        "flux-character-anma.safetensors",
        f"character-anma/{WEIGHTS}",
        "hanna",
    ):
        assert part in error.message
    assert error.entry.http_status == 404


def test_no_folder_at_all_says_so() -> None:
    with pytest.raises(RylaError, match=r"no folder \(set RYLA_VOLUME\)"):
        LoraStore([]).find("7")


def test_a_pickle_of_that_name_is_named(tmp_path: Path) -> None:
    lora_store = make(tmp_path, "c/character-7.pt")
    with pytest.raises(RylaError) as raised:
        lora_store.find("7")
    assert raised.value.code == "lora_pickle" and "character-7.pt" in raised.value.message


@pytest.mark.skipif(os.name == "nt", reason="Does not apply: links need a privilege on Windows")
class TestLinks:
    def test_out_of_the_folders_is_refused_and_not_listed(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path)
        (tmp_path / "secret.safetensors").write_bytes(b"x")
        (tmp_path / "v" / "7.safetensors").symlink_to(tmp_path / "secret.safetensors")
        (tmp_path / "v" / "out").symlink_to(tmp_path, target_is_directory=True)
        for lora_id in ("7", "out/secret"):
            with pytest.raises(RylaError) as raised:
                lora_store.find(lora_id)
            assert raised.value.code == "lora_outside_folders"
            assert str(tmp_path / "secret") not in raised.value.message
        assert lora_store.list() == ()

    def test_that_are_passed_over_are_said(self, tmp_path: Path) -> None:
        """What ComfyUI lists and we do not: a folder with two links in it, or LoRAs on another drive."""
        lora_store = make(tmp_path, "c/8.safetensors", "data/Lora/anna.safetensors", "data/bob.safetensors")
        (tmp_path / "v" / "Lora").symlink_to(tmp_path / "data" / "Lora", target_is_directory=True)
        (tmp_path / "v" / "bob.safetensors").symlink_to(tmp_path / "data" / "bob.safetensors")
        (tmp_path / "v" / "gone.safetensors").symlink_to(tmp_path / "data" / "gone.safetensors")
        assert lora_store.passed_over() == (tmp_path / "v" / "Lora", tmp_path / "v" / "bob.safetensors")
        with pytest.raises(RylaError) as raised:
            lora_store.find("anna")
        error = raised.value
        assert error.code == "lora_not_found" and str(tmp_path / "v" / "Lora") in error.message
        assert "2 links" in error.message and "RYLA_LORA_ROOTS" in error.hint
        assert error.details["passed_over"] == [str(link) for link in lora_store.passed_over()]
        with pytest.raises(RylaError) as raised:
            lora_store.find("bob")
        assert raised.value.code == "lora_outside_folders" and "RYLA_LORA_ROOTS" in raised.value.hint

    @pytest.mark.parametrize("allowed", ["data", "data/Lora/../.."])
    def test_into_an_allowed_folder_are_followed_as_comfyui_follows_them(self, tmp_path: Path, allowed: str) -> None:
        make(tmp_path, "data/Lora/anna.safetensors", "data/bob.safetensors", "elsewhere/eve.safetensors")
        lora_store = LoraStore([tmp_path / "v"], allowed=[tmp_path / allowed])
        (tmp_path / "v" / "Lora").symlink_to(tmp_path / "data" / "Lora", target_is_directory=True)
        (tmp_path / "v" / "bob.safetensors").symlink_to(tmp_path / "data" / "bob.safetensors")
        assert {file.name for file in lora_store.list()} == {"Lora/anna.safetensors", "bob.safetensors"}
        assert lora_store.find("Lora/anna").path == tmp_path / "v" / "Lora" / "anna.safetensors"
        assert lora_store.find("bob").path == tmp_path / "v" / "bob.safetensors"
        if allowed == "data":
            (tmp_path / "v" / "eve.safetensors").symlink_to(tmp_path / "elsewhere" / "eve.safetensors")
            with pytest.raises(RylaError) as raised:
                lora_store.find("eve")
            assert raised.value.code == "lora_outside_folders"

    def test_a_chain_of_links_counts_by_where_it_ends(self, tmp_path: Path) -> None:
        make(tmp_path, "data/anna.safetensors", "secret.safetensors")
        lora_store = LoraStore([tmp_path / "v"], allowed=[tmp_path / "data"])
        (tmp_path / "data" / "out.safetensors").symlink_to(tmp_path / "secret.safetensors")
        (tmp_path / "v" / "7.safetensors").symlink_to(tmp_path / "data" / "out.safetensors")
        with pytest.raises(RylaError) as raised:
            lora_store.find("7")
        assert raised.value.code == "lora_outside_folders"

    def test_between_the_folders_are_followed_and_counted_once(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path, "v/7.safetensors")
        (tmp_path / "c" / "character-7.safetensors").symlink_to(tmp_path / "v" / "7.safetensors")
        assert lora_store.find("7").also == ()
        assert [file.name for file in lora_store.list()] == ["7.safetensors"]
        assert lora_store.find("character-7.safetensors").path == tmp_path / "c" / "character-7.safetensors"

    def test_another_file_wins_over_a_link_that_leads_out(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path, "secret.safetensors", "c/7.safetensors")
        (tmp_path / "v" / "7.safetensors").symlink_to(tmp_path / "secret.safetensors")
        assert lora_store.find("7").path == tmp_path / "c" / "7.safetensors"

    def test_a_folder_that_is_itself_a_link_is_a_root_like_any(self, tmp_path: Path) -> None:
        make(tmp_path, "v/7.safetensors")
        (tmp_path / "mount").symlink_to(tmp_path / "v", target_is_directory=True)
        assert LoraStore([tmp_path / "mount"]).find("7").path == tmp_path / "mount" / "7.safetensors"

    def test_loops_and_dangling_links_are_passed_over(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path, "c/7.safetensors")
        (tmp_path / "v" / "7.safetensors").symlink_to("7.safetensors")
        (tmp_path / "v" / "8.safetensors").symlink_to("gone.safetensors")
        (tmp_path / "v" / "again").symlink_to(tmp_path / "v", target_is_directory=True)
        assert lora_store.find("7").path == tmp_path / "c" / "7.safetensors"
        assert [file.id for file in lora_store.list()] == ["7"]
        with pytest.raises(RylaError, match="No LoRA '8'"):
            lora_store.find("8")

    def test_a_pipe_is_not_a_file(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path)
        os.mkfifo(tmp_path / "v" / "7.safetensors")
        with pytest.raises(RylaError, match="No LoRA '7'"):
            lora_store.find("7")


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="Does not apply: permissions do not bind this user"
)
def test_an_unreadable_folder_is_said(tmp_path: Path) -> None:
    lora_store = make(tmp_path, "v/character-7/x")
    (tmp_path / "v").chmod(0)
    try:
        with pytest.raises(RylaError, match="Not readable"):
            lora_store.find("7")
    finally:
        (tmp_path / "v").chmod(0o755)


class TestSuffixes:
    """Files that Windows' tools write in capitals, and safetensors' other suffix; ComfyUI lists both."""

    @pytest.mark.parametrize(
        "name", ["7.SAFETENSORS", "character-7.SafeTensors", "7.sft", f"character-7/{WEIGHTS.upper()}"]
    )
    def test_of_any_case_are_listed_and_found(self, tmp_path: Path, name: str) -> None:
        name = name.replace(WEIGHTS.upper(), "pytorch_lora_weights.SAFETENSORS")
        lora_store = make(tmp_path, f"v/{name}")
        (listed,) = lora_store.list()
        assert (listed.name, listed.id) == (name, "7")
        assert lora_store.find(listed.id).path == tmp_path / "v" / name

    def test_the_named_file_wins(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path, "v/7.sft", "v/7.safetensors")
        assert lora_store.find("7.sft").path == tmp_path / "v" / "7.sft"
        assert lora_store.find("7").path == tmp_path / "v" / "7.safetensors"

    def test_companions_of_macos_are_no_loras(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path, "v/._7.safetensors", "v/sub/._8.SAFETENSORS", "v/7.safetensors")
        assert [file.name for file in lora_store.list()] == ["7.safetensors"]
        assert lora_store.find("7").also == ()


class TestNewFiles:
    def test_are_found_and_listed_at_once(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path, "v/1.safetensors", "v/styles/2.safetensors")
        assert [file.id for file in lora_store.list()] == ["1", "styles/2"]
        for name in ("v/3.safetensors", "v/styles/4.safetensors", "c/new/5.safetensors"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
            lora_id = ids.short_id(name[2:])
            assert lora_store.find(lora_id).path == path
            assert lora_id in [file.id for file in lora_store.list()]
        (tmp_path / "v" / "1.safetensors").unlink()
        assert "1" not in [file.id for file in lora_store.list()]
        with pytest.raises(RylaError, match="No LoRA '1'"):
            lora_store.find("1")

    def test_a_settled_folder_is_not_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lora_store = make(tmp_path, "v/1.safetensors")
        for folder in (tmp_path / "v", tmp_path / "c"):
            os.utime(folder, (1_600_000_000, 1_600_000_000))
        reads: list[object] = []
        scandir = os.scandir

        def counted(path: object) -> object:
            reads.append(path)
            return scandir(path)  # type: ignore[call-overload]

        monkeypatch.setattr(os, "scandir", counted)
        for _ in range(3):
            assert len(lora_store.list()) == 1
        assert len(reads) == 2
        (tmp_path / "v" / "2.safetensors").write_bytes(b"x")
        assert len(lora_store.list()) == 2
        assert len(reads) == 3

    def test_a_root_may_appear_later(self, tmp_path: Path) -> None:
        lora_store = LoraStore([tmp_path / "later"])
        assert lora_store.list() == ()
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "7.safetensors").write_bytes(b"x")
        assert lora_store.find("7").id == "7"

    def test_a_cache_key_changes_with_the_file(self, tmp_path: Path) -> None:
        lora_store = make(tmp_path, "v/7.safetensors")
        first = lora_store.find("7").key
        assert lora_store.find("7").key == first
        (tmp_path / "v" / "7.safetensors").write_bytes(b"xx")
        assert lora_store.find("7").key != first


class TestRefresh:
    def test_is_asked_once_before_not_found_and_not_at_all_otherwise(self, tmp_path: Path) -> None:
        make(tmp_path, "v/7.safetensors")
        calls: list[int] = []
        lora_store = LoraStore([tmp_path / "v"], lambda: calls.append(1))
        lora_store.find("7")
        assert not calls
        with pytest.raises(RylaError, match="No LoRA '8'"):
            lora_store.find("8")
        assert len(calls) == 1

    def test_may_bring_the_file(self, tmp_path: Path) -> None:
        make(tmp_path)
        lora_store = LoraStore([tmp_path / "v"], lambda: (tmp_path / "v" / "8.safetensors").touch())
        assert lora_store.find("8").id == "8"

    @pytest.fixture(autouse=True)
    def _no_hook(self) -> object:
        yield
        refresh.set_hook(None)

    def test_hook_before_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(tmp_path)
        new = tmp_path / "v" / "9.safetensors"
        monkeypatch.setenv(
            "RYLA_VOLUME_REFRESH",
            f'"{sys.executable}" -c "import pathlib,sys; pathlib.Path(sys.argv[1]).touch()" "{new}"',
        )
        refresh.set_hook(lambda: None)
        with pytest.raises(RylaError, match="No LoRA '9'"):
            store.shared([tmp_path / "v"]).find("9")
        refresh.set_hook(None)
        assert store.shared([tmp_path / "v"]).find("9").path == new

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            (f'"{sys.executable}" -c "import sys; sys.exit(\'no such volume\')"', "exit status 1: no such volume"),
            ("ryla-no-such-program --x", "No such file"),
            ('"unbalanced', "No closing quotation"),
        ],
    )
    def test_a_command_that_fails_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, says: str
    ) -> None:
        monkeypatch.setenv("RYLA_VOLUME_REFRESH", command)
        with pytest.raises(RylaError) as raised:
            store.shared([tmp_path]).find("9")
        assert raised.value.code == "volume_refresh_failed" and says in raised.value.message

    def test_waiting_callers_share_one(self, tmp_path: Path) -> None:
        calls: list[int] = []

        def slow() -> None:
            calls.append(1)
            time.sleep(0.3)

        refresh.set_hook(slow)
        threads = [threading.Thread(target=refresh.run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The first is under way when the others ask, so they share the second.
        assert 1 <= len(calls) <= 2


EVIL = st.sampled_from(
    [
        "..",
        ".",
        "/",
        "\\",
        "\0",
        "C:",
        "~",
        "character-",
        "secret",
        "link",
        "．",
        "‥",
        ".safetensors",
        "7",
        " ",
        "%2e",
        "\u202e",
    ]
)
ID = st.one_of(st.text(max_size=40), st.lists(EVIL, max_size=8).map("".join))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoraStore, Path]:
    base = tmp_path_factory.mktemp("hostile")
    lora_store = make(base, "secret.safetensors", "v/7.safetensors", "v/styles/7.safetensors")
    if os.name != "nt":
        (base / "v" / "link").symlink_to(base, target_is_directory=True)
        (base / "v" / "secret.safetensors").symlink_to(base / "secret.safetensors")
    return lora_store, base


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lora_id=ID)
def test_never_resolves_outside(hostile: tuple[LoraStore, Path], lora_id: str) -> None:
    lora_store, base = hostile
    try:
        found = lora_store.find(lora_id)
    except RylaError as error:
        assert error.code in {"invalid_lora_id", "lora_not_found", "lora_outside_folders", "lora_pickle"}
        return
    assert found.path.resolve().is_relative_to((base / "v").resolve())
    assert found.path.suffix == ".safetensors"


@settings(max_examples=200, deadline=None)
@given(lora_id=ID)
def test_candidates_stay_below_a_root(lora_id: str) -> None:
    try:
        parsed = ids.parse(lora_id)
    except RylaError:
        return
    root = Path("/roots/loras")
    for name in (name for group in parsed.groups() for name in group):
        assert ".." not in Path(name).parts and not Path(name).is_absolute()
        assert Path(os.path.normpath(root / name)).is_relative_to(root)
        assert all(len(part.encode()) <= 255 for part in name.split("/") if part.isascii())


NAME = st.from_regex(r"[a-z0-9]([a-z0-9. -]{0,8}[a-z0-9])?", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.tuples(st.sampled_from(["", "character-", "flux-character-", "character-character-"]), NAME),
        min_size=1,
        max_size=5,
    )
)
def test_every_listed_id_finds_its_file(tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]) -> None:
    base = tmp_path_factory.mktemp("listed")
    lora_store = make(base, *(f"v/{prefix}{name}.safetensors" for prefix, name in names))
    for file in lora_store.list():
        try:
            ids.parse(file.id)
        except RylaError:
            continue  # A name such as "con.1" that is not portable.
        found = lora_store.find(file.id)
        assert file.path in {found.path, *found.also}
        assert lora_store.find(file.name).path == file.path


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_lookup_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    lora_store = make(tmp_path, *(f"v/character-{n}.safetensors" for n in range(2000)))
    times = sorted(timed(lambda n=n: lora_store.find(str(n))) for n in range(0, 2000, 20))  # type: ignore[misc]
    assert times[len(times) // 2] < 0.001
