"""What goes wrong between the hub and the disk: each has its own message, and the same command finishes later."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ryla_nodes.models import hub as hub_module
from unit.hub_server import Fault
from unit.models_world import CHUNK, World, world

CLIP = "comfyanonymous/flux_text_encoders/clip_l.safetensors"
BIG = 400_000


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_BACKOFF", (0.05, 0.05, 0.05))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.publish(["clip_l"], BIG)
        yield made


def _finishes(machine: World) -> None:
    """The same command now installs the file, whole, and leaves nothing behind."""
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "downloaded"}, result.text
    assert machine.is_right("clip_l") and not machine.strays()


def test_gated_without_a_token_names_the_page_and_the_token_and_goes_on_with_the_rest(machine: World) -> None:
    machine.publish(["flux1-dev", "ae", "ae-ungated", "t5xxl_fp16"])
    machine.hub.gated.add("black-forest-labs/FLUX.1-dev")
    result = machine.run("install", "flux-dev", "--yes")
    assert (result.code, result.status) == ("models_incomplete", 3)
    # The VAE comes from its ungated twin; only the transformer is missing.
    assert result.states == {
        "flux1-dev": "gated_model",
        "clip_l": "downloaded",
        "t5xxl_fp16": "downloaded",
        "ae": "downloaded",
    }
    assert "flux1-dev (gated_model)" in result.answer["error"]["message"]
    hint = result.answer["error"]["hint"]
    assert "https://huggingface.co/black-forest-labs/FLUX.1-dev" in hint and "HF_TOKEN" in hint
    finished = machine.run("install", "flux-dev", "--yes", environment={"HF_TOKEN": "hf_right"})
    assert finished.states["flux1-dev"] == "downloaded" and machine.is_right("flux1-dev")


@pytest.mark.parametrize(
    ("token", "code", "words"),
    [
        ("hf_other", "gated_model", "no access yet (403)"),
        ("hf_wrong_format_but_sent", "invalid_token", "does not accept the token"),
        ("", "gated_model", "no valid token was sent (401)"),
    ],
)
def test_each_reason_to_refuse_is_told_apart(machine: World, token: str, code: str, words: str) -> None:
    machine.hub.gated.add("comfyanonymous/flux_text_encoders")
    token = token.replace("hf_wrong", "xx_wrong")
    result = machine.run("install", "clip_l", "--yes", environment={"HF_TOKEN": token})
    assert result.states == {"clip_l": code} and words in result.results["clip_l"]["error"]["message"]
    machine.hub.gated.clear()
    _finishes(machine)


def test_a_file_that_is_gone_names_it_and_its_revision_error(machine: World) -> None:
    content = machine.hub.files.pop(CLIP)
    machine.hub.files["comfyanonymous/flux_text_encoders/other"] = b""
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "remote_missing"}
    assert "the file was not found (404)" in result.results["clip_l"]["error"]["message"]
    machine.hub.files[CLIP] = content
    _finishes(machine)


def test_a_repository_that_is_gone(machine: World) -> None:
    content = machine.hub.files.pop(CLIP)
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "remote_missing"}
    machine.hub.files[CLIP] = content
    _finishes(machine)


@pytest.mark.parametrize("on", ["HEAD", "GET"])
def test_429_waits_as_long_as_the_hub_says(machine: World, on: str) -> None:
    machine.hub.fail(CLIP, Fault(on=on, status=429, headers={"Retry-After": "1"}))
    started = time.monotonic()
    _finishes(machine)
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("on", ["HEAD", "GET"])
def test_a_server_error_that_passes_is_waited_out(machine: World, on: str) -> None:
    machine.hub.fail(CLIP, Fault(on=on, status=503, times=2))
    _finishes(machine)


def test_a_server_error_that_stays_is_reported(machine: World) -> None:
    machine.hub.fail(CLIP, Fault(on="HEAD", status=503, times=99))
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "download_failed"}
    assert "HTTP 503" in result.results["clip_l"]["error"]["message"]
    machine.hub.faults.clear()
    _finishes(machine)


def test_a_cut_connection_goes_on_where_it_stopped(machine: World) -> None:
    machine.hub.fail(CLIP, Fault(cut_after=150_000), Fault(cut_after=100_000))
    _finishes(machine)
    ranges = [request.range for request in machine.hub.requests if request.method == "GET" and request.name == CLIP]
    starts = [int(item.removeprefix("bytes=").removesuffix("-") or 0) for item in ranges]
    assert starts == [0, 150_000 - 150_000 % CHUNK, starts[1] + 100_000 - 100_000 % CHUNK]


def test_a_killed_download_goes_on_where_it_stopped(machine: World) -> None:
    machine.hub.block = 20_000
    machine.hub.fail(CLIP, Fault(delay=0.1))
    process = machine.start("install", "clip_l", "--yes")
    _wait_for(lambda: sum(path.stat().st_size for path in machine.volume.rglob("*.part")) > 60_000)
    process.kill()
    process.communicate()
    part = machine.volume.rglob("*.part").__next__()
    kept = part.stat().st_size
    assert 60_000 < kept < len(machine.contents["clip_l"]) and not machine.path("clip_l").exists()
    _finishes(machine)
    # The hub notes a request at its end, and hears late that the first one has lost its client.
    assert f"bytes={kept}-" in [request.range for request in machine.hub.requests]


def _wait_for(condition: object, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_ctrl_c_stops_and_keeps_what_came(machine: World) -> None:
    machine.hub.block = 20_000
    machine.hub.fail(CLIP, Fault(delay=0.1))
    process = machine.start("install", "clip_l", "--yes")
    _wait_for(lambda: any(path.stat().st_size > 40_000 for path in machine.volume.rglob("*.part")))
    process.send_signal(signal.SIGINT)
    result = machine.finish(process)
    assert (result.code, result.status) == ("cancelled", 130)
    assert list(machine.volume.rglob("*.part"))
    _finishes(machine)


def test_a_server_that_ignores_the_range_starts_again_without_damage(machine: World) -> None:
    machine.hub.fail(CLIP, Fault(cut_after=150_000), Fault(ignore_range=True))
    _finishes(machine)


def test_wrong_bytes_are_thrown_away(machine: World) -> None:
    wrong = machine.contents["clip_l"][:-1] + b"!"
    machine.hub.fail(CLIP, Fault(body=wrong))
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "hash_mismatch"}
    assert "other bytes" in result.results["clip_l"]["error"]["message"]
    assert not machine.strays() and not machine.path("clip_l").exists()
    _finishes(machine)


def test_a_bad_part_file_is_replaced_in_the_same_run(machine: World) -> None:
    part = machine.volume / ".ryla"
    part.mkdir(parents=True)
    digest = machine.hub.etag(CLIP)[:16]
    (part / f"text_encoders--clip_l.safetensors.{digest}.part").write_bytes(b"x" * 70_000)
    _finishes(machine)
    gets = [item.range for item in machine.hub.requests if item.method == "GET" and item.name == CLIP]
    assert gets == ["bytes=70000-", ""]


@pytest.mark.parametrize("fault", [Fault(on="HEAD", size=1234), Fault(on="HEAD", etag="e" * 64)])
def test_a_source_that_announces_another_file_is_not_fetched(machine: World, fault: Fault) -> None:
    machine.hub.fail(CLIP, fault)
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "source_changed"}
    assert machine.hub.sent(CLIP) == 0
    _finishes(machine)


@pytest.mark.parametrize("length", [100_000, BIG * 2])
def test_a_body_of_the_wrong_length_is_not_accepted(machine: World, length: int) -> None:
    machine.hub.fail(CLIP, Fault(body=bytes(length), times=20))
    result = machine.run("install", "clip_l", "--yes")
    assert result.states["clip_l"] in ("download_failed", "hash_mismatch")
    assert not machine.path("clip_l").exists()
    machine.hub.faults.clear()
    _finishes(machine)


def test_a_file_that_changes_between_two_attempts_is_not_glued_together(machine: World) -> None:
    """Without a hash in the catalogue, the hub's ETag names the version of a part file."""
    repo, path = "openai/clip-vit-large-patch14", "merges.txt"
    first, second = b"1" * 200_000, b"2" * 200_000
    machine.hub.add(repo, path, first, small=True)
    machine.hub.block = 20_000
    machine.hub.fail(f"{repo}/{path}", Fault(delay=0.1))
    process = machine.start("install", "tokenizer-clip_l-merges", "--yes")
    _wait_for(lambda: any(part.stat().st_size > 40_000 for part in machine.volume.rglob("*.part")))
    process.kill()
    process.communicate()
    machine.hub.add(repo, path, second, small=True)
    assert machine.run("install", "tokenizer-clip_l-merges", "--yes").status == 0
    assert (machine.volume / "tokenizers" / "clip_l" / "merges.txt").read_bytes() == second
    assert not machine.strays()


def test_a_slow_server_is_waited_for(machine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    machine.hub.block = 200_000
    machine.hub.fail(CLIP, Fault(delay=1.5))  # The library gives up on the silence, and goes on from there.
    _finishes(machine)


def test_a_mirror_is_taken_when_the_first_source_fails(machine: World) -> None:
    machine.publish(["antelopev2-glintr100"])
    entry = machine.catalogue.get("antelopev2-glintr100")
    del machine.hub.files[f"{entry.repo}/{entry.path}"]
    machine.hub.add("MonsterMMORPG/InstantID_Models", "models/antelopev2/glintr100.onnx", machine.contents[entry.id])
    assert machine.run("install", entry.id, "--yes").states == {entry.id: "downloaded"}
    assert machine.is_right(entry.id)


def test_a_plain_address_is_fetched_without_the_token(machine: World) -> None:
    data = machine.contents["clip_l"]
    machine.hub.add("plain/host", "clip.bin", data)
    machine.extra = f'mirrors = ["{machine.hub.url}/plain/plain/host/clip.bin"]\nrepo = "no/where"\n'
    machine.write_catalogue()
    machine.hub.fail("plain/host/clip.bin", Fault(cut_after=100_000))
    result = machine.run("install", "clip_l", "--yes", environment={"HF_TOKEN": "hf_right"})
    assert result.states == {"clip_l": "downloaded"} and machine.is_right("clip_l")
    assert {item.authorization for item in machine.hub.requests if item.name == "plain/host/clip.bin"} == {""}


def test_nobody_there(machine: World) -> None:
    result = machine.run("install", "clip_l", "--yes", environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert result.states == {"clip_l": "download_failed"}
    _finishes(machine)


def test_offline(machine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = machine.start("install", "clip_l", "--yes", environment_extra={"HF_HUB_OFFLINE": "1"})
    result = machine.finish(process)
    assert result.states == {"clip_l": "offline"} and "HF_HUB_OFFLINE" in result.results["clip_l"]["error"]["message"]
    _finishes(machine)


def test_a_full_disk_keeps_nothing_half(machine: World) -> None:
    work = machine.volume / ".ryla"
    work.mkdir(parents=True)
    part = work / f"text_encoders--clip_l.safetensors.{machine.hub.etag(CLIP)[:16]}.part"
    part.symlink_to("/dev/full")  # A real ENOSPC from the kernel.
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "disk_full"} and not machine.path("clip_l").exists()
    part.unlink()
    _finishes(machine)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Does not apply: POSIX permissions")
def test_a_read_only_target_is_named(machine: World) -> None:
    machine.volume.mkdir()
    machine.volume.chmod(0o555)
    with _ordinary_user(machine.root):
        result = machine.run("install", "clip_l", "--yes")
    machine.volume.chmod(0o755)
    assert result.states == {"clip_l": "not_writable"}
    assert str(machine.volume) in result.results["clip_l"]["error"]["message"]
    _finishes(machine)


class _ordinary_user:
    """Root may write anywhere: become nobody for a while."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> None:
        self._was = os.geteuid()
        if self._was == 0:
            for folder in (self._root, *self._root.parents[:3]):
                folder.chmod(folder.stat().st_mode | 0o055)
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        os.seteuid(self._was)


def test_a_damaged_file_is_reported_by_install_and_replaced_by_repair(machine: World) -> None:
    path = machine.path("clip_l")
    path.parent.mkdir(parents=True)
    path.write_bytes(machine.contents["clip_l"][:-1] + b"?")
    result = machine.run("install", "clip_l", "--yes")
    assert result.states == {"clip_l": "hash_mismatch"}
    assert result.answer["error"]["hint"] == "ryla models check --repair"
    assert path.exists(), "somebody's file is not thrown away unasked"
    assert machine.run("check", "--repair", "--yes").states == {"clip_l": "downloaded"}
    assert machine.is_right("clip_l")


def test_two_installers_at_once_download_once(machine: World) -> None:
    machine.hub.block = 20_000
    machine.hub.fail(CLIP, Fault(delay=0.05))
    pair = [machine.start("install", "clip_l", "--yes") for _ in range(2)]
    results = [machine.finish(process) for process in pair]
    assert sorted(result.states["clip_l"] for result in results) == ["downloaded", "present"]
    assert machine.hub.sent(CLIP) == len(machine.contents["clip_l"])
    assert machine.is_right("clip_l") and not machine.strays()


def test_any_number_of_kills_leaves_a_state_that_the_same_command_finishes(machine: World) -> None:
    """``RYLA_TEST_KILLS=100`` runs as many; a few here, each at a random moment while files are fetched."""
    machine.publish(["clip_l", "t5xxl_fp16", "ae", "antelopev2"], 300_000)
    machine.hub.block = 20_000
    wanted = ("install", "clip_l", "t5xxl_fp16", "ae", "antelopev2", "--yes")
    chance = random.Random(os.environ.get("RYLA_TEST_SEED", "6"))
    interrupted = 0
    for _ in range(int(os.environ.get("RYLA_TEST_KILLS", "4"))):
        for name in machine.hub.files:
            machine.hub.faults[name] = [Fault(delay=0.03, times=99)]
        asked = len(machine.hub.requests)
        process = machine.start(*wanted)
        _wait_for(lambda asked=asked: len(machine.hub.requests) > asked)
        time.sleep(chance.uniform(0, 1.2))
        process.kill()
        process.communicate()
        interrupted += bool(list(machine.volume.rglob("*.part")))
        present = [name for name in machine.contents if machine.path(name).exists()]
        assert all(map(machine.is_right, present)), "a file has its name before it is whole"
        for name in chance.sample(present, len(present) // 2):  # So that there is always something to fetch.
            machine.path(name).unlink()
    machine.hub.faults.clear()
    result = machine.run(*wanted)
    assert result.status == 0, result.text
    assert all(map(machine.is_right, machine.contents)) and not machine.strays()
    assert interrupted, "no kill came while a file was fetched"


_XET = {"HF_HUB_DISABLE_XET": "", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "RYLA_XET": "1"}


def test_where_xet_does_not_work_the_plain_download_does(machine: World) -> None:
    machine.hub.xet.add(CLIP)
    process = machine.start("install", "clip_l", "--yes", environment_extra=_XET)
    result = machine.finish(process)
    assert result.states == {"clip_l": "downloaded"}, result.text
    assert machine.is_right("clip_l") and not machine.strays()
    assert any(request.name == "/xet-token" for request in machine.hub.requests), "Xet was tried"


def test_unless_it_is_asked_for_xet_is_not_used_and_a_killed_download_goes_on(machine: World) -> None:
    machine.hub.xet.add(CLIP)
    machine.hub.block = 20_000
    machine.hub.fail(CLIP, Fault(delay=0.1))
    offered = {name: value for name, value in _XET.items() if name != "RYLA_XET"}
    process = machine.start("install", "clip_l", "--yes", environment_extra=offered)
    _wait_for(lambda: sum(path.stat().st_size for path in machine.volume.rglob("*.part")) > 60_000)
    process.kill()
    process.communicate()
    again = machine.finish(machine.start("install", "clip_l", "--yes", environment_extra=offered))
    assert again.states == {"clip_l": "downloaded"} and machine.is_right("clip_l")
    assert any(request.range > "bytes=0-" for request in machine.hub.requests)
    assert not any(request.name == "/xet-token" for request in machine.hub.requests)
