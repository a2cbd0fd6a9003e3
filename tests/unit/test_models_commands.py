"""``ryla models`` list, show, check, link and remove."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ryla_nodes.models import link as links
from ryla_nodes.models import workspace
from unit.models_world import World, world

FLUX_DEV = ("flux1-dev", "clip_l", "t5xxl_fp16", "ae")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def _comfyui(root: Path) -> Path:
    for name in ("comfy", "comfy_extras", "comfy_api", "models"):
        (root / name).mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (root / name).touch()
    return root


def _install(machine: World, *names: str) -> None:
    machine.publish(names)
    assert machine.run("install", *names, "--yes").status == 0


def test_list_says_what_is_here(machine: World) -> None:
    _install(machine, "clip_l")
    listed = machine.run("list", volume=False, environment={"RYLA_VOLUME": str(machine.volume)}).answer["models"]
    paths = {item["id"]: item["path"] for item in listed}
    assert paths["clip_l"] == str(machine.path("clip_l")) and paths["ae"] is None
    few = machine.run("list", "flux-dev", volume=False).answer["models"]
    assert [item["id"] for item in few] == list(FLUX_DEV)


def test_show_tells_sources_licence_and_users(machine: World) -> None:
    facts = machine.run("show", "ae", volume=False).answer["model"]
    assert facts["sources"][:2] == [
        "black-forest-labs/FLUX.1-dev/ae.safetensors",
        "Comfy-Org/z_image_turbo/split_files/vae/ae.safetensors",
    ]
    assert "flux-dev" in facts["workflows"] and facts["gated"] and facts["license"]


def test_a_green_check_is_fast_the_second_time_and_notices_a_change(machine: World) -> None:
    _install(machine, "clip_l")
    assert machine.run("check", "clip_l").states == {"clip_l": "ok"}
    path = machine.path("clip_l")
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert machine.run("check", "clip_l").states == {"clip_l": "hash_mismatch"}
    # A flipped bit under an unchanged time is found when asked to read every byte.
    path.write_bytes(data)
    assert machine.run("check", "clip_l").status == 0
    kept = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([data[-1] ^ 1]))
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert machine.run("check", "clip_l").status == 0
    assert machine.run("check", "clip_l", "--rehash").states == {"clip_l": "hash_mismatch"}
    assert status.st_size == len(data)


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b""), "empty_file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "truncated_file"),
        (lambda path: path.write_bytes(b"<html>Log in</html>"), "not_safetensors"),
        (lambda path: (path.unlink(), path.symlink_to("/nowhere/clip_l.safetensors")), "dangling_link"),
    ],
)
def test_check_names_each_damage_and_repairs_it(machine: World, damage: object, state: str) -> None:
    _install(machine, "clip_l")
    damage(machine.path("clip_l"))  # type: ignore[operator]
    result = machine.run("check", "clip_l")
    assert (result.code, result.status) == ("models_incomplete", 3) and result.states == {"clip_l": state}
    verb = "install clip_l" if state == "missing" else "check clip_l --repair"
    assert result.answer["error"]["hint"] == f"ryla models {verb} --volume {machine.volume}"
    assert machine.run("check", "clip_l", "--repair", "--yes").states == {"clip_l": "downloaded"}
    assert machine.is_right("clip_l") and machine.run("check", "clip_l").status == 0


def test_another_file_under_a_known_name_is_told_by_its_size(machine: World) -> None:
    _install(machine, "clip_l")
    machine.contents["clip_l"] += b"?"
    machine.write_catalogue()
    assert machine.run("check", "clip_l").states == {"clip_l": "wrong_size"}


def test_check_without_names_looks_at_what_is_here(machine: World) -> None:
    assert machine.run("check").answer == {"ok": True, "results": []}
    _install(machine, "clip_l", "ae")
    assert machine.run("check").states == {"clip_l": "ok", "ae": "ok"}
    assert machine.run("check", "flux-dev").states["flux1-dev"] == "missing"


def test_remove_deletes_only_what_it_names(machine: World) -> None:
    _install(machine, "clip_l", "ae")
    part = machine.volume / ".ryla" / "text_encoders--clip_l.safetensors.abc.part"
    part.write_bytes(b"half")
    assert machine.run("remove", "clip_l").code == "confirmation_required"
    result = machine.run("remove", "clip_l", "--yes")
    assert sorted(result.answer["removed"]) == sorted([str(part), str(machine.path("clip_l"))])
    assert not machine.path("clip_l").exists() and machine.path("ae").exists() and not part.exists()
    assert machine.run("remove", "clip_l", "--yes").code == "missing_model"


def _link(machine: World, comfyui: Path, *more: str) -> dict[str, str]:
    result = machine.run("link", "--comfyui", comfyui, *more)
    found = result.answer["results"] if result.answer["ok"] else result.answer["error"]["details"]["results"]
    return {Path(item["path"]).name: item["state"] for item in found}


def test_links_are_idempotent_repaired_and_never_over_a_real_file(machine: World) -> None:
    _install(machine, "clip_l", "ae")
    lora = machine.volume / "loras" / "sub" / "character-1.safetensors"
    lora.parent.mkdir(parents=True)
    lora.write_bytes(b"lora")
    comfyui = _comfyui(machine.root / "ComfyUI")
    names = ["clip_l.safetensors", "ae.safetensors", "character-1.safetensors"]
    assert _link(machine, comfyui) == dict.fromkeys(names, "linked")
    place = comfyui / "models" / "loras" / "sub" / "character-1.safetensors"
    assert place.is_symlink() and place.read_bytes() == b"lora"
    assert _link(machine, comfyui) == dict.fromkeys(names, "kept")
    place.unlink()
    place.symlink_to(machine.root / "old-mount" / "character-1.safetensors")
    assert _link(machine, comfyui)["character-1.safetensors"] == "repaired" and place.read_bytes() == b"lora"
    place.unlink()
    place.write_bytes(b"mine")
    assert _link(machine, comfyui)["character-1.safetensors"] == "blocked" and place.read_bytes() == b"mine"
    assert machine.run("link", "--comfyui", comfyui).code == "link_blocked"
    assert set(_link(machine, comfyui, "clip_l")) == {"clip_l.safetensors"}


def test_somebody_elses_link_stays(machine: World) -> None:
    _install(machine, "clip_l")
    comfyui = _comfyui(machine.root / "ComfyUI")
    other = machine.root / "other.safetensors"
    other.write_bytes(b"other")
    place = comfyui / "models" / "text_encoders" / "clip_l.safetensors"
    place.parent.mkdir()
    place.symlink_to(other)
    assert _link(machine, comfyui) == {"clip_l.safetensors": "blocked"} and place.resolve() == other


def test_hard_links_where_symbolic_ones_are_refused(machine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(machine, "clip_l")
    comfyui = _comfyui(machine.root / "ComfyUI")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert _link(machine, comfyui) == {"clip_l.safetensors": "hard_linked"}
    assert _link(machine, comfyui) == {"clip_l.safetensors": "kept"}
    (comfyui / "models" / "text_encoders" / "clip_l.safetensors").unlink()
    monkeypatch.setattr(os, "link", refuse)
    result = machine.run("link", "--comfyui", comfyui)
    assert result.code == "link_refused" and "--yaml" in result.answer["error"]["hint"]


def test_the_yaml_entry_is_added_once_and_the_rest_kept(machine: World) -> None:
    _install(machine, "clip_l")
    (machine.volume / "clip").mkdir()
    comfyui = _comfyui(machine.root / "ComfyUI")
    file = comfyui / "extra_model_paths.yaml"
    file.write_text("# mine\na111:\n    base_path: /sd\n    vae: VAE")
    assert machine.run("link", "--comfyui", comfyui, "--yaml").answer["changed"]
    text = file.read_text()
    assert text.startswith("# mine\na111:") and yaml.safe_load(text)["a111"]["vae"] == "VAE"
    section = yaml.safe_load(text)["ryla_volume"]
    assert section == {"base_path": str(machine.volume), "text_encoders": "text_encoders\nclip"}
    paths = [item.path for item in workspace.extra_model_paths(file) if item.folder == "text_encoders"]
    assert paths == [machine.volume / "text_encoders", machine.volume / "clip"]
    assert not machine.run("link", "--comfyui", comfyui, "--yaml").answer["changed"]
    (machine.volume / "loras").mkdir()
    assert machine.run("link", "--comfyui", comfyui, "--yaml").answer["changed"]
    assert file.read_text().count(links._BEGIN) == 1 and "loras" in yaml.safe_load(file.read_text())["ryla_volume"]


def test_a_broken_yaml_file_is_left_alone(machine: World) -> None:
    _install(machine, "clip_l")
    comfyui = _comfyui(machine.root / "ComfyUI")
    (comfyui / "extra_model_paths.yaml").write_text("a: [")
    assert machine.run("link", "--comfyui", comfyui, "--yaml").code == "invalid_model_paths"
    assert (comfyui / "extra_model_paths.yaml").read_text() == "a: ["


def test_a_volume_that_is_not_there(machine: World) -> None:
    comfyui = _comfyui(machine.root / "ComfyUI")
    assert machine.run("link", "--comfyui", comfyui).code == "no_target"
