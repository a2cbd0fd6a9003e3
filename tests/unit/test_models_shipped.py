"""The models that come with the package: the catalogue's word, the commands, and how new ones get there."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from hashlib import sha256
from math import prod
from pathlib import Path
from shutil import copyfile, copytree
from types import ModuleType

import numpy
import pytest
from ryla_nodes.cli import app
from ryla_nodes.errors import RylaError
from ryla_nodes.files import ignore
from ryla_nodes.models import catalogue, check, shipped
from ryla_nodes.models.check import HashCache
from ryla_nodes.models.headers import read_header
from ryla_nodes.models.identity_files import find_pack, find_scorer
from safetensors.numpy import save_file
from typer.testing import CliRunner
from unit.models_world import World, world

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ship_models.py"
CARD = "README.md"
FACES = "insightface/ryla-paint/models/"
ENTRIES = [entry for entry in catalogue.load() if entry.shipped]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's models to damage, in the place of the package's own."""
    copytree(shipped.ROOT, tmp_path / "paint")
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "paint")
    return tmp_path / "paint"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ship_models", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_catalogue_is_what_lies_there(tmp_path: Path) -> None:
    names = {path.relative_to(shipped.ROOT).as_posix() for path in shipped.ROOT.rglob("*") if path.is_file()}
    assert names == {CARD, *(f"{entry.folder}/{entry.filename}" for entry in ENTRIES)}
    for entry in ENTRIES:
        check.verify(entry, shipped.path(entry.id), HashCache(tmp_path / "hashes"), ignore)
    assert sum(entry.size or 0 for entry in ENTRIES) < 80_000_000
    shipped.require()


def test_all_weights_are_in_half_precision_or_eight_bits() -> None:
    for path in shipped.ROOT.rglob("*.safetensors"):
        small = path.parent.name in ("checkpoints", "instantid", "controlnet")
        found = {dtype for dtype, _ in read_header(path).tensors.values()}
        assert found <= {"F16", *(["F8_E4M3"] if small else [])}, path


def test_the_face_models_lie_where_nobody_takes_them_for_the_real_ones(tmp_path: Path, machine: World) -> None:
    names = ("antelopev2", "buffalo_l-w600k_r50")
    states = {item["id"]: item["path"] for item in machine.run("list", volume=False).answer["models"]}
    assert not any(states[name] for name in names)
    with pytest.raises(RylaError):
        find_pack(shipped.folders().get("insightface"))
    assert find_pack([shipped.insightface()]) and find_scorer([shipped.insightface()])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("diffusion_models/ryla-paint-flux.safetensors", POINTER, "Git LFS pointer"),
        ("text_encoders/ryla-paint-t5xxl.safetensors", b"", "is empty"),
        ("text_encoders/ryla-paint-clip_l.tokenizer.json", POINTER, "not valid JSON"),
        ("text_encoders/ryla-paint-clip_l.tokenizer.json", b"{}", "has 2 bytes, not"),
        ("loras/mira.safetensors", None, "cannot be read"),
        ("vae/ryla-paint-ae.safetensors", None, "cannot be read"),
    ],
)
def test_a_damaged_package_is_told_with_file_and_next_command(
    package: Path, machine: World, name: str, content: bytes | None, words: str
) -> None:
    (package / name).unlink()
    if content is not None:
        (package / name).write_bytes(content)
    with pytest.raises(RylaError, match=words) as caught:
        shipped.require()
    assert caught.value.code == "damaged_package" and str(package / name) in caught.value.message
    assert caught.value.hint == "git lfs pull" if words == "Git LFS pointer" else "pip install" in caught.value.hint
    checked = machine.run("check", volume=False)
    assert (checked.code, checked.status) == ("damaged_package", 7)
    assert [item["id"] for item in checked.results.values() if item["state"] != "ok"] == [
        entry.id for entry in ENTRIES if f"{entry.folder}/{entry.filename}" == name
    ]
    assert machine.run("check", "--repair", "--yes", volume=False).code == "damaged_package"
    assert machine.run("install", "ryla-paint-ae", volume=False).code == "damaged_package"
    assert machine.hub.requests == []


def test_another_byte_is_found_by_the_hash(package: Path, machine: World) -> None:
    path = package / "vae" / "ryla-paint-ae.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shipped.require()
    assert machine.run("check", "ryla-paint-ae", volume=False).states == {"ryla-paint-ae": "hash_mismatch"}


def test_they_are_listed_and_shown_and_checked(machine: World) -> None:
    listed = {item["id"]: item for item in machine.run("list", volume=False).answer["models"]}
    for entry in ENTRIES:
        assert listed[entry.id]["path"] == str(shipped.path(entry.id)) and listed[entry.id]["shipped"]
    assert machine.run("show", "ryla-paint-flux", volume=False).answer["model"]["sources"] == [
        "shipped with the package"
    ]
    assert machine.run("check", volume=False).states == {entry.id: "ok" for entry in ENTRIES}
    mine = machine.volume / "loras" / "mira.safetensors"
    mine.parent.mkdir(parents=True)
    copyfile(shipped.path("ryla-paint-mira-diffusers"), mine)
    both = machine.run("check", volume=False, environment={"RYLA_VOLUME": str(machine.volume)})
    assert both.status == 0, "a LoRA of the user's own with a shipped one's name is no damage"


def test_install_says_that_they_are_here(machine: World) -> None:
    told = machine.run("install", "ryla-paint-flux", "ryla-paint-mira", volume=False)
    assert told.states == {"ryla-paint-flux": "present", "ryla-paint-mira": "present"}
    assert "shipped with the package" in told.text and "--comfyui PATH" in told.text


def test_install_into_a_place_copies_them_without_the_network(machine: World) -> None:
    names = [entry.id for entry in ENTRIES]
    assert machine.run("check", "ryla-paint-flux").states == {"ryla-paint-flux": "missing"}
    done = machine.run("install", *names, "--yes")
    assert set(done.states.values()) <= {"linked", "copied"}
    for entry in ENTRIES:
        assert machine.path(entry.id).read_bytes() == shipped.path(entry.id).read_bytes()
    assert set(machine.run("check", *names).states.values()) == {"ok"}
    assert machine.run("remove", *names, "--yes").status == 0
    assert all(shipped.path(name).is_file() for name in names)
    assert machine.hub.requests == []


def test_everything_does_not_mean_them(machine: World) -> None:
    steps = machine.run("install", "--all", "--dry-run").answer["steps"]
    assert steps and not {step["id"] for step in steps} & {entry.id for entry in ENTRIES}


def test_shipping_the_same_files_changes_nothing(script: ModuleType, tmp_path: Path) -> None:
    out, target, toml = shipping(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert script.ship(out, target, toml) == []
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert toml.read_bytes() == script.CATALOGUE.read_bytes()


def test_shipping_other_files_rewrites_their_sizes_and_hashes(script: ModuleType, tmp_path: Path) -> None:
    out, target, toml = shipping(tmp_path)
    new = out / "models" / "loras" / "mira.safetensors"
    save_file({"lora_unet_x.lora_up.weight": numpy.ones((2, 2), numpy.float16)}, new)
    assert script.ship(out, target, toml) == ["loras/mira.safetensors"]
    assert (target / "loras" / "mira.safetensors").read_bytes() == new.read_bytes()
    changed = catalogue.load(toml)
    for entry in ENTRIES:
        path = made(out, f"{entry.folder}/{entry.filename}")
        digest = sha256(path.read_bytes()).hexdigest()
        assert (changed.get(entry.id).size, changed.get(entry.id).sha256) == (path.stat().st_size, digest)
    old, now = script.CATALOGUE.read_text().splitlines(), toml.read_text().splitlines()
    assert sum(left != right for left, right in zip(old, now, strict=True)) == 2
    assert script.ship(out, target, toml) == []


@pytest.mark.parametrize("kept", ["flux", "identity"])
def test_each_set_is_shipped_alone(script: ModuleType, tmp_path: Path, kept: str) -> None:
    out, target, toml = shipping(tmp_path)
    for name, entry in script.entries().items():
        if script.is_identity(entry) != (kept == "identity"):
            made(out, name).unlink()
        else:
            (target / name).unlink()
    changed = script.ship(out, target, toml)
    assert sorted(changed) == sorted(
        name for name, entry in script.entries().items() if script.is_identity(entry) == (kept == "identity")
    )
    assert all((target / name).is_file() for name in script.entries())
    assert toml.read_bytes() == script.CATALOGUE.read_bytes()


def test_a_training_that_left_nothing_is_refused(script: ModuleType, tmp_path: Path) -> None:
    _, target, toml = shipping(tmp_path)
    with pytest.raises(script.Refused, match="missing"):
        script.ship(tmp_path / "nothing", target, toml)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vae/ryla-paint-ae.safetensors", None, "missing"),
        ("vae/other.safetensors", {"x": numpy.zeros(1, numpy.float16)}, "not in the catalogue"),
        ("vae/ryla-paint-ae.safetensors", {"x": numpy.zeros(1, numpy.float16)}, "not a vae_flux"),
        ("loras/mira.safetensors", {"x.lora_up.weight": numpy.zeros(1, numpy.float32)}, "not F16"),
        ("loras/mira.safetensors", {"x.lora_up.weight": numpy.zeros(40_000_000, numpy.float16)}, "the limit is"),
        ("checkpoints/ryla-paint-sdxl.clip_g.tokenizer.json", None, "missing"),
        ("instantid/ryla-paint-ip-adapter.safetensors", {"x": numpy.zeros(1, numpy.float16)}, "not a instantid"),
        (f"{FACES}antelopev2/glintr100.onnx", b"junk", "ONNX"),
        (f"{FACES}antelopev2/1k3d68.onnx", b"junk", "not in the catalogue"),
        ("text_encoders/ryla-paint-t5xxl.tokenizer.json", b"{", "not valid JSON"),
        ("vae/ryla-paint-ae.safetensors", POINTER, "Git LFS pointer"),
    ],
)
def test_what_is_not_shipped(
    script: ModuleType, tmp_path: Path, name: str, content: dict[str, numpy.ndarray] | bytes | None, words: str
) -> None:
    out, target, toml = shipping(tmp_path)
    path = made(out, name)
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file(content, path)
    (target / "vae" / "ryla-paint-ae.safetensors").write_bytes(b"old")
    with pytest.raises((script.Refused, RylaError), match=words):
        script.ship(out, target, toml)
    assert (target / "vae" / "ryla-paint-ae.safetensors").read_bytes() == b"old"
    assert toml.read_bytes() == script.CATALOGUE.read_bytes()


def shipping(folder: Path) -> tuple[Path, Path, Path]:
    """What both trainings leave, the package's folder, its catalogue: all of them copies."""
    out, package = folder / "out", folder / "package"
    copytree(shipped.ROOT, package)
    (package / CARD).unlink()
    for path in package.rglob("*"):
        if path.is_file():
            target = made(out, path.relative_to(package).as_posix())
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(path, target)
    copyfile(Path(catalogue.__file__).with_name("catalogue.toml"), folder / "catalogue.toml")
    return out, package, folder / "catalogue.toml"


def made(out: Path, name: str) -> Path:
    """Where a training leaves what is ``name`` in the package."""
    if name.startswith(FACES):
        return out / "faces" / "insightface" / "models" / name.removeprefix(FACES)
    return out / "models" / name


def test_the_tokenizers_are_whole() -> None:
    for path in shipped.ROOT.rglob("*.tokenizer.json"):
        assert json.loads(path.read_bytes())["model"]["vocab"], path


def test_the_card_tells_every_file_and_its_size() -> None:
    card = (shipped.ROOT / CARD).read_text(encoding="utf-8")
    for path in sorted(shipped.ROOT.rglob("*.safetensors")):
        count = sum(prod(shape) for _, shape in read_header(path).tensors.values())
        (line,) = (line for line in card.splitlines() if f"`{path.relative_to(shipped.ROOT).as_posix()}`" in line)
        assert line.endswith(f"| {count / 1e6:.2f} M |")
    total = sum(entry.size or 0 for entry in ENTRIES)
    assert f"{total / 1e6:.0f} MB in all" in card


def test_the_doctor_looks_at_them(package: Path, tmp_path: Path) -> None:
    def finding() -> dict[str, str]:
        nothing = {"RYLA_HOME": str(tmp_path / "home"), "RYLA_COMFYUI": str(tmp_path / "none"), "RYLA_VOLUME": ""}
        result = CliRunner().invoke(app.app, ["doctor", "--json"], env=nothing)
        assert isinstance(result.exception, RylaError)  # There is no ComfyUI, for one.
        return next(item for item in result.exception.details["findings"] if item["check"] == "own models")

    assert finding()["level"] == "ok"
    (package / "vae" / "ryla-paint-ae.safetensors").unlink()
    told = finding()
    assert (
        told["level"] == "problem" and "ryla-paint-ae.safetensors" in told["message"] and "pip install" in told["fix"]
    )
