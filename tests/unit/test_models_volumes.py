"""Volumes as they are: no flock, no fsync, no hard links, a size of 0, read-only, names in another case."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lora_files
import pytest
from ryla_nodes import files
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import library
from ryla_nodes.models import locks
from ryla_nodes.models.folders import at_root
from unit.models_world import World, world


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.publish(["clip_l"], 60_000)
        yield made


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    """What a folder can do is asked once in a process."""
    locks._has_locks.cache_clear()
    yield
    locks._has_locks.cache_clear()


def fail(number: int) -> Callable[..., None]:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


class TestWithoutLocks:
    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO])
    def test_a_file_is_installed_and_it_is_said_once(
        self, machine: World, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(fcntl, "flock", fail(number))
        machine.publish(["clip_l", "ae"])
        result = machine.run("install", "clip_l", "ae", "--yes")
        assert result.states == {"clip_l": "downloaded", "ae": "downloaded"}, result.text
        assert len([record for record in caplog.records if "has no locks" in record.message]) == 1
        assert not machine.strays() and not list(machine.volume.rglob("*.owner"))

    def test_a_server_of_locks_that_never_answers_is_not_waited_for(
        self, machine: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fcntl, "flock", lambda *_: time.sleep(30))
        monkeypatch.setattr(locks, "_PROBE_S", 0.2)
        start = time.monotonic()
        assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "downloaded"}
        assert time.monotonic() - start < 20

    def test_two_take_turns(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fcntl, "flock", fail(errno.ENOLCK))
        inside, most, waited = [0], [0], threading.Event()

        def work() -> None:
            with locks.locked(tmp_path / "x.lock", lambda _: waited.set()):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.2)
                inside[0] -= 1

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert most[0] == 1 and waited.is_set() and not list(tmp_path.iterdir())

    def test_waiting_may_be_given_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fcntl, "flock", fail(errno.ENOLCK))

        def cancel(host: str) -> None:
            raise RylaError("cancelled", f"waiting for {host}")

        with locks.locked(tmp_path / "x.lock", cancel):
            with pytest.raises(RylaError, match=r"waiting for \w"), locks.locked(tmp_path / "x.lock", cancel):
                pass
            assert (tmp_path / "x.lock.owner").exists()

    def test_what_a_killed_process_left_is_taken_over_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fcntl, "flock", fail(errno.ENOLCK))
        child = os.fork()
        if child == 0:
            manager = locks.locked(tmp_path / "x.lock", lambda _: None)
            manager.__enter__()
            os._exit(9)
        os.waitpid(child, 0)
        assert (tmp_path / "x.lock.owner").exists()
        start = time.monotonic()
        with locks.locked(tmp_path / "x.lock", lambda _: None):
            assert time.monotonic() - start < 5

    def test_what_a_machine_that_is_gone_left_is_taken_over_when_nobody_touches_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fcntl, "flock", fail(errno.ENOLCK))
        monkeypatch.setattr(locks, "_STALE_S", 1.0)
        owner = tmp_path / "x.lock.owner"
        owner.write_text('{"host": "elsewhere", "pid": 1, "token": "x"}')
        hosts: list[str] = []
        with locks.locked(tmp_path / "x.lock", hosts.append):
            assert hosts and hosts[0] == "elsewhere"
        # One that is touched is alive, however long it takes.
        owner.write_text('{"host": "elsewhere", "pid": 1, "token": "x"}')
        calls: list[str] = []

        def touch(host: str) -> None:
            calls.append(host)
            os.utime(owner, ns=(time.time_ns(), time.time_ns()))
            if len(calls) == 5:
                raise RylaError("cancelled", "enough")

        with pytest.raises(RylaError, match="enough"), locks.locked(tmp_path / "x.lock", touch):
            pass
        assert owner.exists()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_fsync_files_are_installed_and_added(
    machine: World, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail(number))
    assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "downloaded"}
    added = library.add(lora_files.small(machine.root / "anna.safetensors"), machine.volume / "loras")
    assert added.path.is_file()


def test_an_fsync_that_fails_for_another_reason_is_told(machine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "disk_full"}


def test_without_links_of_any_kind_files_are_copied(
    machine: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", fail(errno.EPERM))
    monkeypatch.setattr(Path, "hardlink_to", fail(errno.EOPNOTSUPP))
    known = machine.root / "home" / ".insightface"
    assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "downloaded"}
    source = lora_files.small(machine.root / "anna.safetensors")
    library.add(source, machine.volume / "loras", lora_id="7")
    with pytest.raises(RylaError) as raised:  # Nothing is overwritten unasked, also without the step that links make.
        library.add(source, machine.volume / "loras", lora_id="7")
    assert raised.value.code == "lora_exists" and not known.exists()


def test_what_another_wrote_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for without_links in (False, True):
        if without_links:
            monkeypatch.setattr(Path, "hardlink_to", fail(errno.EPERM))
        path = tmp_path / f"{without_links}"
        with pytest.raises(FileExistsError), files.replacing(path, exclusive=True) as part:
            part.write_bytes(b"ours")
            path.write_bytes(b"theirs")
        assert path.read_bytes() == b"theirs" and not list(tmp_path.glob("*.part"))


class Usage:
    total, used, free = 0, 0, 0


class TestSpace:
    def test_a_disk_of_0_bytes_does_not_tell_and_stops_nothing(
        self, machine: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
        planned = machine.run("install", "clip_l", "--dry-run")
        assert planned.answer["free"] is None and planned.answer["needed"] > 0
        assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "downloaded"}
        added = library.add(lora_files.small(machine.root / "anna.safetensors"), machine.volume / "loras")
        assert added.path.is_file()

    def test_a_disk_that_cannot_be_asked(self, machine: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", fail(errno.ENOSYS))
        assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "downloaded"}

    def test_a_disk_that_is_full_is_refused_with_a_hint_that_fits(
        self, machine: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = type("Full", (), {"total": 10**9, "used": 10**9, "free": 0})
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
        result = machine.run("install", "clip_l", "--yes")
        assert result.code == "disk_full" and "-o" not in result.answer["error"]["hint"].split()
        with pytest.raises(RylaError) as raised:
            library.add(lora_files.small(machine.root / "anna.safetensors"), machine.volume / "loras")
        assert raised.value.code == "disk_full" and "-o" not in raised.value.hint.split()


@pytest.mark.parametrize("step", ["mkdir", "open"])
def test_a_read_only_volume_is_said_at_once(machine: World, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def read_only(self: Path, *arguments: object, **options: object) -> None:
        if self.is_relative_to(machine.volume):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        real(self, *arguments, **options)  # type: ignore[arg-type]

    if step == "open":
        (machine.volume / ".ryla").mkdir(parents=True)
        monkeypatch.setattr(locks, "_has_locks", lambda _: False)
        monkeypatch.setattr(os, "open", fail(errno.EROFS))
    else:
        monkeypatch.setattr(Path, "mkdir", read_only)
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "not_writable"}


class TestOtherCase:
    """A disk that was filled on Windows or macOS, on Linux."""

    def test_a_file_is_found_by_its_name_in_another_case(self, machine: World) -> None:
        path = machine.volume / "text_encoders" / "Flux" / "CLIP_L.SafeTensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(machine.contents["clip_l"])
        assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "present"}
        assert machine.run("check", "clip_l").states == {"clip_l": "ok"}
        assert machine.hub.sent(machine.name("clip_l")) == 0

    def test_the_exact_name_wins(self, tmp_path: Path) -> None:
        for name in ("AE.safetensors", "ae.safetensors", "sub/Ae.safetensors"):
            (tmp_path / "vae" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "vae" / name).write_bytes(b"x")
        folders = at_root(tmp_path)
        assert folders.find("vae", "ae.safetensors") == tmp_path / "vae" / "ae.safetensors"
        assert folders.find("vae", "SUB/ae.safetensors") == tmp_path / "vae" / "sub" / "Ae.safetensors"
        assert folders.find_name("vae", "ae.safetensors") == tmp_path / "vae" / "ae.safetensors"
        assert folders.find("vae", "../secret") is None

    def test_folders_in_another_case_are_searched(self, machine: World) -> None:
        path = machine.volume / "Text_Encoders" / "clip_l.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(machine.contents["clip_l"])
        lora_files.small(machine.volume / "LoRAs" / "7.safetensors")
        folders = at_root(machine.volume)
        assert folders.get("loras") == (machine.volume / "loras", machine.volume / "LoRAs")
        assert folders.list("text_encoders") == ["clip_l.safetensors"]
        assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "present"}


def test_a_mount_that_numbers_no_files_keeps_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ryla_nodes.loras.store import LoraStore

    for name in ("1.safetensors", "2.safetensors", "sub/3.safetensors"):
        lora_files.small(tmp_path / name)
    real = Path.stat

    class Unnumbered:
        st_ino = 0

        def __init__(self, status: os.stat_result) -> None:
            self.status = status

        def __getattr__(self, name: str) -> object:
            return getattr(self.status, name)

    def unnumbered(self: Path, **options: bool) -> Unnumbered:
        return Unnumbered(real(self, **options))

    monkeypatch.setattr(Path, "stat", unnumbered)
    lora_store = LoraStore([tmp_path])
    assert [file.id for file in lora_store.list()] == ["1", "2", "sub/3"]
    assert lora_store.find("1").also == ()


def test_a_home_that_cannot_be_locked_costs_time_once(machine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes a refused lock for a busy one and waits for it."""
    import sqlite3

    from ryla_nodes.models.check import HashCache

    tried: list[object] = []

    def busy(*arguments: object, **options: object) -> None:
        tried.append(arguments)
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(sqlite3, "connect", busy)
    path = lora_files.small(machine.root / "x.safetensors")
    cache = HashCache(machine.root / "hashes.sqlite")
    assert {cache.sha256(path) for _ in range(5)} == {files.sha256(path)}
    assert len(tried) == 1
