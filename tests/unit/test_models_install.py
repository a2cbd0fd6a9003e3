"""``ryla models install`` against a local hub: the plain cases."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.models_world import World, world

FLUX_DEV = ("flux1-dev", "clip_l", "t5xxl_fp16", "ae")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def test_a_workflow_is_installed_verified_and_not_fetched_twice(machine: World) -> None:
    machine.publish(FLUX_DEV, 50_000)
    result = machine.run("install", "flux-dev", "--yes")
    assert result.states == dict.fromkeys(FLUX_DEV, "downloaded"), result.text
    assert all(machine.is_right(name) for name in FLUX_DEV) and not machine.strays()
    assert machine.path("flux1-dev") == machine.volume / "diffusion_models" / "flux1-dev.safetensors"
    sent = {name: machine.hub.sent(machine.name(name)) for name in FLUX_DEV}
    assert sent == {name: len(machine.contents[name]) for name in FLUX_DEV}
    again = machine.run("install", "flux-dev", "--yes")
    assert again.states == dict.fromkeys(FLUX_DEV, "present")
    assert machine.run("check", "flux-dev").status == 0
    assert sum(machine.hub.sent(machine.name(name)) for name in FLUX_DEV) == sum(sent.values())


def test_the_token_goes_to_the_hub_and_not_to_the_storage(machine: World) -> None:
    machine.publish(["flux1-dev"])
    machine.hub.gated.add("black-forest-labs/FLUX.1-dev")
    result = machine.run("install", "flux1-dev", "--yes", environment={"HF_TOKEN": "hf_right"})
    assert result.states == {"flux1-dev": "downloaded"}
    asked = [request for request in machine.hub.requests if request.name == machine.name("flux1-dev")]
    by_method = {request.method: request.authorization for request in asked}
    assert by_method == {"HEAD": "Bearer hf_right", "GET": ""}


def test_fp8_takes_the_all_in_one_file_and_nothing_that_it_includes(machine: World) -> None:
    machine.publish(["flux1-dev-fp8"])
    result = machine.run("install", "flux-dev", "--precision", "fp8", "--yes")
    assert result.states == {"flux1-dev-fp8": "downloaded"}
    assert machine.run("check", "flux-dev").states == {"flux1-dev-fp8": "ok"}
    again = machine.run("install", "flux-dev", "--yes")
    assert again.answer == {"ok": True, "results": []}


def test_dry_run_touches_nothing_and_says_everything(machine: World) -> None:
    machine.publish(FLUX_DEV)
    result = machine.run("install", "flux-dev", "--dry-run")
    assert [step["id"] for step in result.answer["steps"]] == list(FLUX_DEV)
    assert result.answer["needed"] == sum(len(machine.contents[name]) for name in FLUX_DEV)
    first = result.answer["steps"][0]
    assert first["from"] == "black-forest-labs/FLUX.1-dev/flux1-dev.safetensors" and first["gated"]
    assert first["license"] == "FLUX.1 [dev] Non-Commercial License"
    assert not machine.volume.exists() and not machine.hub.requests


def test_it_asks_before_it_acts(machine: World) -> None:
    machine.publish(["clip_l"])
    result = machine.run("install", "clip_l")
    assert (result.code, result.status) == ("confirmation_required", 2)
    assert not machine.path("clip_l").exists()


def test_too_small_a_disk_is_refused_before_a_byte_is_fetched(machine: World) -> None:
    machine.publish(["clip_l"])
    machine.extra = '\n[[model]]\nid = "t5xxl_fp16"\nsize = 999999999999999\n'
    machine.write_catalogue()
    result = machine.run("install", "clip_l", "t5xxl_fp16", "--yes")
    assert (result.code, result.status) == ("disk_full", 7)
    assert result.answer["error"]["hint"] == "Free space, or choose another disk, and run the same command."
    assert "free" in result.answer["error"]["message"] and not machine.hub.requests


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("install", "flux-dve"), "unknown_model", "'flux-dev'"),
        (("install", "clip-l"), "unknown_model", "'clip_l'"),
        (("install",), "unknown_model", "--all"),
        (("show", "t5"), "unknown_model", "t5"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(
    machine: World, arguments: tuple[str, ...], code: str, words: str
) -> None:
    result = machine.run(*arguments, volume=arguments[0] != "show")
    assert result.code == code and words in result.answer["error"]["message"]


def test_a_place_is_needed(machine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine.root)
    assert machine.run("install", "clip_l", "--yes", volume=False).code == "no_target"
    assert machine.run("install", "clip_l", "--yes", "--comfyui", machine.root, volume=False).code == "not_a_comfyui"
    both = machine.run("install", "clip_l", "--yes", "--comfyui", machine.root)
    assert both.code == "no_target"


def _fake_comfyui(root: Path) -> Path:
    for name in ("main.py", "nodes.py"):
        root.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in ("comfy", "comfy_extras", "comfy_api", "models"):
        (root / name).mkdir()
    return root


def test_a_file_of_the_comfyui_is_hard_linked_into_the_volume(machine: World) -> None:
    machine.publish(["clip_l", "ae"])
    comfyui = _fake_comfyui(machine.root / "ComfyUI")
    clip = comfyui / "models" / "clip" / "clip_l.safetensors"
    clip.parent.mkdir()
    clip.write_bytes(machine.contents["clip_l"])
    vae = comfyui / "models" / "vae" / "ae.safetensors"
    vae.parent.mkdir()
    vae.write_bytes(machine.contents["ae"][:-1] + b"?")  # The right name and size, the wrong bytes.
    result = machine.run("install", "clip_l", "ae", "--yes", environment={"RYLA_COMFYUI": str(comfyui)})
    assert result.states == {"clip_l": "linked", "ae": "downloaded"}
    assert machine.path("clip_l").samefile(clip) and machine.is_right("ae")
    assert machine.hub.sent(machine.name("clip_l")) == 0


def test_a_file_is_copied_where_hard_links_are_refused(machine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.publish(["clip_l"])
    comfyui = _fake_comfyui(machine.root / "ComfyUI")
    clip = comfyui / "models" / "text_encoders" / "sub" / "clip_l.safetensors"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(machine.contents["clip_l"])
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    result = machine.run("install", "clip_l", "--yes", environment={"RYLA_COMFYUI": str(comfyui)})
    assert result.states == {"clip_l": "copied"} and machine.is_right("clip_l") and not machine.strays()
    assert not machine.path("clip_l").samefile(clip)


def test_the_hubs_own_cache_is_used(machine: World) -> None:
    import hashlib

    machine.publish(["clip_l"])
    digest = hashlib.sha256(machine.contents["clip_l"]).hexdigest()
    blob = machine.root / "home" / "hf" / "hub" / "models--some--repo" / "blobs" / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(machine.contents["clip_l"])
    assert machine.run("install", "clip_l", "--yes").states == {"clip_l": "linked"}
    assert not machine.hub.requests


def test_files_of_a_comfyui_go_to_its_folders_and_extra_paths_count_as_there(machine: World) -> None:
    machine.publish(["clip_l", "ae"])
    comfyui = _fake_comfyui(machine.root / "ComfyUI")
    extra = machine.root / "shared"
    (extra / "VAE").mkdir(parents=True)
    (extra / "VAE" / "ae.safetensors").write_bytes(machine.contents["ae"])
    (comfyui / "extra_model_paths.yaml").write_text(f"a111:\n    base_path: {extra}\n    vae: VAE\n")
    result = machine.run("install", "clip_l", "ae", "--yes", "--comfyui", comfyui, volume=False)
    assert result.states == {"clip_l": "downloaded", "ae": "present"}
    assert (comfyui / "models" / "text_encoders" / "clip_l.safetensors").read_bytes() == machine.contents["clip_l"]


def test_small_files_without_a_known_hash_are_verified_by_the_hubs(machine: World) -> None:
    for part in ("vocab.json", "tokenizer_config.json", "special_tokens_map.json"):
        machine.hub.add("openai/clip-vit-large-patch14", part, b'{"a": 1}', small=True)
    machine.hub.add("openai/clip-vit-large-patch14", "merges.txt", b"a b\n", small=True)
    result = machine.run("install", "tokenizer-clip_l", "--yes")
    assert set(result.states.values()) == {"downloaded"} and len(result.states) == 4
    assert (machine.volume / "tokenizers" / "clip_l" / "merges.txt").read_bytes() == b"a b\n"


def test_antelopev2_from_loose_files_lies_flat(machine: World) -> None:
    machine.publish(["antelopev2"])
    result = machine.run("install", "antelopev2", "--yes")
    assert set(result.states.values()) == {"downloaded"} and len(result.states) == 5
    assert len(list((machine.volume / "insightface" / "models" / "antelopev2").glob("*.onnx"))) == 5


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _without_loose_files(machine: World) -> dict[str, bytes]:
    """antelopev2 as the zip only; the members as the real one names them."""
    machine.publish(["antelopev2"])
    for name in [name for name in machine.hub.files if "antelopev2" in name]:
        del machine.hub.files[name]
    return {f"antelopev2/{name.removeprefix('antelopev2-')}.onnx": data for name, data in machine.contents.items()}


def test_antelopev2_from_the_zip_is_fetched_once_and_unpacked_flat(machine: World) -> None:
    data = _zip(_without_loose_files(machine))
    machine.publish_archive("antelopev2.zip", data)
    result = machine.run("install", "antelopev2", "--yes")
    assert set(result.states.values()) == {"downloaded"} and all(map(machine.is_right, machine.contents))
    assert machine.hub.sent("MonsterMMORPG/tools/antelopev2.zip") == len(data) and not machine.strays()
    assert machine.run("check", "antelopev2").status == 0


@pytest.mark.parametrize("evil", ["slip", "absolute", "bomb", "lie", "damaged", "lacking"])
def test_an_untrustworthy_zip_is_refused_and_leaves_nothing(machine: World, evil: str) -> None:
    members = _without_loose_files(machine)
    wanted = "antelopev2/glintr100.onnx"
    data = {
        "slip": lambda: _zip({**members, "../../evil.onnx": b"x"}),
        "absolute": lambda: _zip({**members, "/tmp/evil.onnx": b"x"}),
        "bomb": lambda: _zip({**members, wanted: bytes(50_000_000)}),
        "lie": lambda: _understated(_zip({**members, wanted: bytes(50_000_000)}), 50_000_000, len(members[wanted])),
        "damaged": lambda: _zip(members)[:-60],
        "lacking": lambda: _zip({"antelopev2/other.onnx": b"x"}),
    }[evil]()
    machine.publish_archive("antelopev2.zip", data)
    result = machine.run("install", "antelopev2-glintr100", "--yes")
    assert result.states == {"antelopev2-glintr100": "unsafe_archive"}, result.text
    assert not list(machine.root.rglob("*.onnx")) and not machine.strays()


def _understated(data: bytes, real: int, claimed: int) -> bytes:
    """A zip whose index and member header claim a smaller size than comes out."""
    return data.replace(real.to_bytes(4, "little"), claimed.to_bytes(4, "little"))


def test_a_copy_in_insightfaces_own_folder_is_used(machine: World) -> None:
    machine.publish(["antelopev2-glintr100"])
    own = machine.root / "home" / ".insightface" / "models" / "antelopev2" / "antelopev2" / "glintr100.onnx"
    own.parent.mkdir(parents=True)
    own.write_bytes(machine.contents["antelopev2-glintr100"])
    result = machine.run("install", "antelopev2-glintr100", "--yes")
    assert result.states == {"antelopev2-glintr100": "linked"}


def test_the_script_is_the_same_program(machine: World) -> None:
    machine.publish(["clip_l"])
    script = Path(__file__).parents[2] / "scripts" / "install_models.py"
    words = [sys.executable, str(script), "clip_l", "--volume", str(machine.volume), "--yes", "--json"]
    done = subprocess.run(words, env={**os.environ, **machine.environment}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["results"][0]["state"] == "downloaded" and machine.is_right("clip_l")
