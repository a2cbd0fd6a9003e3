"""Where files are looked for, and what is found: ComfyUI's own rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from ryla_nodes import settings
from ryla_nodes.errors import RylaError
from ryla_nodes.models import workspace
from ryla_nodes.models.catalogue import load
from ryla_nodes.models.folders import ModelFolders, at_root, of_comfyui, standalone
from ryla_nodes.models.identify import FileKind
from ryla_nodes.models.resolve import locate, resolve
from unit import models_standins as standins


def _put(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _comfyui(root: Path) -> Path:
    for name in ("comfy", "comfy_extras", "comfy_api", "models"):
        (root / name).mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (root / name).touch()
    return root


def test_legacy_names_and_comfyuis_several_folders(tmp_path: Path) -> None:
    folders = at_root(tmp_path)
    assert folders.get("unet") == folders.get("diffusion_models") == (tmp_path / "unet", tmp_path / "diffusion_models")
    assert folders.get("clip") == (tmp_path / "text_encoders", tmp_path / "clip")
    assert folders.get("nothing") == ()
    _put(tmp_path / "clip" / "a.safetensors")
    assert folders.find("text_encoders", "a.safetensors") == tmp_path / "clip" / "a.safetensors"


def test_listing_is_sorted_posix_and_of_model_files_only(tmp_path: Path) -> None:
    for name in ("b/c.safetensors", "a.SAFETENSORS", "d.part", "e.txt", ".git/f.bin", "g.onnx"):
        _put(tmp_path / "loras" / name)
    (tmp_path / "loras" / "b" / "loop").symlink_to(tmp_path / "loras")
    assert at_root(tmp_path).list("loras") == ["a.SAFETENSORS", "b/c.safetensors", "g.onnx"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..\\secret", "", "."])
def test_a_lookup_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    _put(tmp_path / "secret")
    (tmp_path / "loras").mkdir()
    assert at_root(tmp_path).find("loras", name) is None


def test_windows_separators_and_own_folders_work(tmp_path: Path) -> None:
    _put(tmp_path / "loras" / "sub" / "a.safetensors")
    _put(tmp_path / "pulid" / "p.safetensors")
    folders = at_root(tmp_path)
    assert folders.find("loras", "sub\\a.safetensors") is not None
    assert folders.list("pulid") == ["p.safetensors"]


def test_folders_are_immutable_and_keep_their_order(tmp_path: Path) -> None:
    folders = ModelFolders({"loras": (tmp_path / "a",), "unet": (tmp_path / "u",)})
    with pytest.raises(TypeError):
        folders.paths["loras"] = ()  # type: ignore[index]
    more = folders.with_root(tmp_path / "root", first=True)
    assert more.get("loras") == (tmp_path / "root" / "loras", tmp_path / "a")
    assert folders.with_root(tmp_path / "root").get("loras") == (tmp_path / "a", tmp_path / "root" / "loras")
    assert folders.get("loras") == (tmp_path / "a",)


YAML = """
a111:
    base_path: {base}
    checkpoints: models/Stable-diffusion
    loras: |
         models/Lora
         models/LyCORIS
mine:
    is_default: true
    clip: {absolute}
empty:
relative:
    vae: here/vae
"""


def test_extra_model_paths_are_read_as_comfyui_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD", "webui")
    comfyui = _comfyui(tmp_path / "ComfyUI")
    file = comfyui / "extra_model_paths.yaml"
    file.write_text(YAML.format(base="../${SD}", absolute=tmp_path / "abs"))
    folders = of_comfyui(comfyui)
    webui = tmp_path / "webui"
    assert folders.get("checkpoints") == (comfyui / "models/checkpoints", webui / "models/Stable-diffusion")
    assert folders.get("loras")[1:] == (webui / "models/Lora", webui / "models/LyCORIS")
    assert folders.get("text_encoders")[0] == tmp_path / "abs", "is_default comes first; clip is text_encoders"
    assert folders.get("vae")[1] == comfyui / "here/vae"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\n", "cannot be read as YAML"),
        ("- a\n", "top level"),
        ("a: text\n", "section 'a'"),
        ("a:\n  loras: [x]\n", "a.loras"),
    ],
)
def test_a_broken_yaml_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = _put(tmp_path / "extra_model_paths.yaml", text.encode())
    with pytest.raises(RylaError, match=words) as caught:
        workspace.extra_model_paths(file)
    assert caught.value.code == "invalid_model_paths" and str(file) in caught.value.message


def test_the_workspace_is_found_in_comfy_clis_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("sys.platform", "linux")
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    assert workspace.discover(nowhere) is None
    standard = _comfyui(tmp_path / "comfy" / "ComfyUI")
    assert workspace.discover(nowhere) == standard
    recent, default = _comfyui(tmp_path / "recent"), _comfyui(tmp_path / "default")
    config = tmp_path / ".config" / "comfy-cli" / "config.ini"
    _put(config, f"[DEFAULT]\nrecent_workspace = {recent}\n".encode())
    assert workspace.discover(nowhere) == recent
    _put(config, f"[DEFAULT]\nrecent_workspace = {recent}\ndefault_workspace = {default}\n".encode())
    assert workspace.discover(nowhere) == default
    here = _comfyui(tmp_path / "here")
    assert workspace.discover(here / "models") == here
    _put(config, b"\xff\xfe broken")
    assert workspace.discover(nowhere) == standard


def test_outside_comfyui_the_volume_comes_first(tmp_path: Path) -> None:
    comfyui = _comfyui(tmp_path / "ComfyUI")
    known = settings.load({"RYLA_VOLUME": str(tmp_path / "volume"), "RYLA_COMFYUI": str(comfyui)})
    assert standalone(known).get("vae") == (tmp_path / "volume" / "vae", comfyui / "models" / "vae")


FLUX = standins.safetensors(standins.FLUX)
ALL_IN_ONE = standins.safetensors(standins.ALL_IN_ONE)


@pytest.mark.parametrize(
    ("place", "data", "kind"),
    [
        ("diffusion_models/flux1-dev.safetensors", FLUX, FileKind.FLUX_TRANSFORMER),
        ("unet/sub/flux1-dev.safetensors", FLUX, FileKind.FLUX_TRANSFORMER),
        ("checkpoints/flux1-dev-fp8.safetensors", ALL_IN_ONE, FileKind.FLUX_ALL_IN_ONE),
        ("diffusion_models/flux1-dev-fp8.safetensors", FLUX, FileKind.FLUX_TRANSFORMER),
        # The two files that share a name, each in the other's folder.
        ("checkpoints/flux1-dev-fp8.safetensors", FLUX, FileKind.FLUX_TRANSFORMER),
        ("diffusion_models/flux1-dev-fp8.safetensors", ALL_IN_ONE, FileKind.FLUX_ALL_IN_ONE),
    ],
)
def test_flux_dev_is_found_in_any_of_its_forms(tmp_path: Path, place: str, data: bytes, kind: FileKind) -> None:
    path = _put(tmp_path / place, data)
    found = locate("flux1-dev", at_root(tmp_path))
    assert (found.path, found.kind) == (path, kind)


def test_the_split_file_comes_before_the_all_in_one(tmp_path: Path) -> None:
    _put(tmp_path / "checkpoints/flux1-dev-fp8.safetensors", ALL_IN_ONE)
    split = _put(tmp_path / "diffusion_models/flux1-dev.safetensors", FLUX)
    assert resolve("flux1-dev", at_root(tmp_path)) == split
    assert locate("flux1-dev-fp8", at_root(tmp_path)).kind is FileKind.FLUX_ALL_IN_ONE


def test_a_missing_file_says_what_was_searched_and_seen_and_the_command(tmp_path: Path) -> None:
    _put(tmp_path / "vae" / "other.safetensors")
    with pytest.raises(RylaError) as caught:
        resolve("ae", at_root(tmp_path))
    error = caught.value
    assert error.code == "missing_model" and error.hint == "ryla models install ae"
    assert "vae/ae.safetensors" in error.message and str(tmp_path / "vae") in error.message
    assert "other.safetensors" in error.message


def test_a_file_of_another_family_is_refused(tmp_path: Path) -> None:
    _put(tmp_path / "diffusion_models/flux1-dev.safetensors", standins.safetensors(standins.SDXL))
    with pytest.raises(RylaError, match="is an SDXL checkpoint; flux1-dev is") as caught:
        resolve("flux1-dev", at_root(tmp_path))
    assert caught.value.code == "wrong_model_kind"


def test_a_damaged_first_hit_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    _put(tmp_path / "diffusion_models/flux1-dev.safetensors", FLUX[:-5])
    _put(tmp_path / "checkpoints/flux1-dev-fp8.safetensors", ALL_IN_ONE)
    with pytest.raises(RylaError) as caught:
        resolve("flux1-dev", at_root(tmp_path))
    assert caught.value.code == "truncated_file"


def test_the_instantid_controlnet_is_known_by_its_size_under_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "controlnet"
    canny = standins.safetensors(standins.CONTROLNET, b"canny...")
    ours = standins.safetensors(standins.CONTROLNET, b"instantid")
    file = tmp_path / "mine.toml"
    file.write_text(f'[[model]]\nid = "instantid-controlnet"\nsize = {len(ours)}\n')
    _put(folder / "canny" / "diffusion_pytorch_model.safetensors", canny)
    with pytest.raises(RylaError, match="is not there"):
        resolve("instantid-controlnet", at_root(tmp_path), load(file))
    path = _put(folder / "instantid_controlnet.safetensors", ours)
    assert resolve("instantid-controlnet", at_root(tmp_path), load(file)) == path


@pytest.mark.parametrize("place", ["models/antelopev2", "antelopev2"])
def test_antelopev2_is_a_folder_in_either_place(tmp_path: Path, place: str) -> None:
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        _put(tmp_path / "insightface" / place / name, standins.onnx(b"g"))
    assert resolve("antelopev2", at_root(tmp_path)) == tmp_path / "insightface" / place


def test_the_nested_antelopev2_is_explained(tmp_path: Path) -> None:
    inner = tmp_path / "insightface" / "models" / "antelopev2" / "antelopev2"
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        _put(inner / name, standins.onnx(b"g"))
    with pytest.raises(RylaError, match="one level too deep") as caught:
        resolve("antelopev2", at_root(tmp_path))
    assert caught.value.code == "nested_models" and caught.value.hint == "ryla models install antelopev2"


def test_half_of_antelopev2_is_not_there(tmp_path: Path) -> None:
    _put(tmp_path / "insightface" / "models" / "antelopev2" / "glintr100.onnx", standins.onnx(b"g"))
    with pytest.raises(RylaError) as caught:
        resolve("antelopev2", at_root(tmp_path))
    assert caught.value.code == "missing_model"
