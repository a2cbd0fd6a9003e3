"""What lies in the hub's cache, in any of its layouts, is not fetched again; a 403 is told in the hub's own words."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.hub_server import COMMIT, Fault
from unit.models_world import World, world

CLIP = "comfyanonymous/flux_text_encoders/clip_l.safetensors"
REPO = "models--comfyanonymous--flux_text_encoders"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.publish(["clip_l"], 40_000)
        yield made


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def linked(cache: Path, data: bytes, sha256: str) -> None:
    """The usual one: a blob by its hash, and a link to it in the snapshot."""
    blob = put(cache / REPO / "blobs" / sha256, data)
    snapshot = cache / REPO / "snapshots" / COMMIT / "clip_l.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(os.path.relpath(blob, snapshot.parent))


def without_links(cache: Path, data: bytes, sha256: str) -> None:
    """Windows without the privilege: the file itself in the snapshot, and no blob."""
    put(cache / REPO / "snapshots" / COMMIT / "clip_l.safetensors", data)


def of_another_revision(cache: Path, data: bytes, sha256: str) -> None:
    put(cache / REPO / "snapshots" / ("b" * 40) / "clip_l.safetensors", data)


def by_another_hash(cache: Path, data: bytes, sha256: str) -> None:
    """A file that is in git, not in LFS: its blob has git's id."""
    blob = put(cache / REPO / "blobs" / hashlib.sha1(data).hexdigest(), data)
    snapshot = cache / REPO / "snapshots" / COMMIT / "clip_l.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(blob)


def of_another_repository(cache: Path, data: bytes, sha256: str) -> None:
    put(cache / "models--somebody--mirror" / "blobs" / sha256, data)


def shared_by_repositories(cache: Path, data: bytes, sha256: str) -> None:
    """huggingface_hub 2.4 with a store for all repositories, by another hash; the repository itself was deleted."""
    name = "ab" + "c" * 62
    put(cache / "blobs" / "ab" / name, data)
    put(cache / "blobs" / "ab" / f"{name}.refs", b"models--x--y/blobs/1\n")
    put(cache / "blobs" / ".huggingface-shared-blobs", b"1\n")


LAYOUTS = (linked, without_links, of_another_revision, by_another_hash, of_another_repository, shared_by_repositories)


@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.__name__ for layout in LAYOUTS])
def test_nothing_is_downloaded_twice(machine: World, layout: Callable[[Path, bytes, str], None]) -> None:
    data = machine.contents["clip_l"]
    layout(machine.root / "home" / "hf" / "hub", data, hashlib.sha256(data).hexdigest())
    planned = machine.run("install", "clip_l", "--dry-run").answer["steps"][0]
    assert planned["action"] == "reuse" and planned["bytes"] == 0
    result = machine.run("install", "clip_l", "--yes")
    assert result.states["clip_l"] in ("linked", "copied")
    assert machine.is_right("clip_l") and not machine.hub.requests


def test_a_damaged_file_of_the_cache_is_not_used(machine: World) -> None:
    data = machine.contents["clip_l"]
    without_links(machine.root / "home" / "hf" / "hub", data[:-1] + b"?", "")
    (machine.root / "home" / "hf" / "hub" / "models--dangling" / "blobs").mkdir(parents=True)
    gone = machine.root / "home" / "hf" / "hub" / "models--dangling" / "blobs" / hashlib.sha256(data).hexdigest()
    gone.symlink_to(machine.root / "gone")
    assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "downloaded"}
    assert machine.is_right("clip_l")


def test_without_a_hash_the_pinned_revision_of_the_cache_is_trusted(machine: World) -> None:
    entry = machine.catalogue.get("tokenizer-clip_l-merges")
    assert entry.sha256 is None and entry.revision
    cached = machine.root / "home" / "hf" / "hub" / f"models--{entry.repo.replace('/', '--')}" / "snapshots"
    put(cached / entry.revision / entry.path, b"a b\n" * 1000 if entry.size is None else bytes(entry.size))
    result = machine.run("install", "tokenizer-clip_l-merges", "--yes")
    assert result.states["tokenizer-clip_l-merges"] in ("linked", "copied") and not machine.hub.requests


FINE = "Please enable access to public gated repositories in your fine-grained token settings to view this repository."


class TestForbidden:
    """HTTP 403 is not always a licence that was not accepted."""

    def refused(self, machine: World, model: str, headers: dict[str, str]) -> dict[str, str]:
        machine.publish([model])
        for method in ("HEAD", "GET"):
            machine.hub.fail(machine.name(model), Fault(on=method, status=403, headers=headers, times=9))
        result = machine.run("install", model, "--yes", environment={"HF_TOKEN": "hf_right"})
        return dict(result.results[model]["error"])

    def test_a_token_without_the_right_is_told_in_the_hubs_words(self, machine: World) -> None:
        error = self.refused(machine, "flux1-dev", {"X-Error-Message": FINE})
        assert error["code"] == "invalid_token" and FINE in error["message"]
        assert "settings/tokens" in error["hint"] and "licence" not in error["message"] + error["hint"]

    def test_a_model_that_is_not_gated_needs_no_licence(self, machine: World) -> None:
        error = self.refused(machine, "clip_l", {})
        assert error["code"] == "download_failed" and "403" in error["message"]
        assert "licence" not in error["message"] + error["hint"] and "HTTPS_PROXY" in error["hint"]

    def test_a_proxy_that_says_why(self, machine: World) -> None:
        said = "Category AI is blocked by your organisation"
        error = self.refused(machine, "flux1-dev", {"X-Error-Message": said})
        assert error["code"] == "download_failed" and said in error["message"]

    @pytest.mark.parametrize(
        "headers",
        [
            {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model x is restricted."},
            {"X-Error-Message": "You are not in the authorized list."},
            {},
        ],
    )
    def test_a_gated_one_is_told_with_the_page_of_its_licence(self, machine: World, headers: dict[str, str]) -> None:
        error = self.refused(machine, "flux1-dev", headers)
        assert error["code"] == "gated_model" and headers.get("X-Error-Message", "") in error["message"]
        assert "huggingface.co/black-forest-labs/FLUX.1-dev" in error["hint"]
