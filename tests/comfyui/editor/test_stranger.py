"""A stranger with a ComfyUI that holds nothing but this pack: from a card to a picture by what the screen says.

Every command on it is pasted as it stands into a shell. The weights are small, and come from a hub of this machine; so
does the package of InsightFace.
"""

from __future__ import annotations

import importlib.metadata
import os
import pty
import subprocess
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import shipped_models
import tiny_flux
import torch
from comfyui.editor import scene
from comfyui.editor.conftest import Edit
from comfyui.editor.test_missing import commands, dialog, nothing_ran
from comfyui.process import Boot, ComfyUI, Install
from PIL import Image
from ryla_nodes.models.catalogue import ModelEntry
from safetensors.torch import load_file
from unit.models_world import World, world

SITE = os.environ.get("RYLA_TEST_SITE_PACKAGES", "")
PACKAGE = "insightface"
SMALL = {"steps": scene.STEPS, "width": scene.SIDE, "height": scene.SIDE, "size": scene.SIDE, "image": scene.PHOTO}
SMALL |= {"on_no_face": "pass"}  # The FLUX here was not trained: nobody is in what it paints.


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[World]:
    """A hub that has small files in the place of every file of the workflow."""
    with world(tmp_path) as made:
        for entry, content in small_files(made, tmp_path / "small"):
            made.contents[entry.id] = content
            made.hub.add(entry.repo, entry.path, content)
        made.write_catalogue()
        yield made


def small_files(machine: World, folder: Path) -> Iterator[tuple[ModelEntry, bytes]]:
    flux, faces = tiny_flux.ensure(folder), shipped_models.identity(folder)
    assert flux.clip_l and flux.t5xxl and flux.vae
    known = machine.catalogue
    paths = {"flux1-dev": flux.transformer, "clip_l": flux.clip_l, "t5xxl_fp16": flux.t5xxl, "ae": flux.vae}
    paths |= {"realvisxl-v5": faces.checkpoint, "instantid-controlnet": faces.control_net}
    for model_id, path in paths.items():
        yield known.get(model_id), path.read_bytes()
    yield known.get("instantid-adapter"), as_pickle(faces.adapter)
    for bundle in ("antelopev2", "buffalo_l-w600k_r50"):
        for part in known.files(known.get(bundle)):
            made = faces.insightface / part.filename
            # What nothing reads, but is installed with the rest.
            spare = faces.insightface / "models" / "antelopev2" / "glintr100.onnx"
            yield part, (made if made.is_file() else spare).read_bytes()


def as_pickle(adapter: Path) -> bytes:
    """The form of ``ip-adapter.bin``: two dictionaries of tensors, none of them in 8 bits."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(adapter).items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor.half()
    out = BytesIO()
    torch.save(groups, out)
    return out.getvalue()


@pytest.fixture
def python(comfyui_install: Install, tmp_path: Path) -> Path:
    """A Python of its own that has what ComfyUI's has and InsightFace needs, but no InsightFace; and its wheel."""
    if not SITE:
        pytest.skip("RYLA_TEST_SITE_PACKAGES names no folder with InsightFace for this ComfyUI's Python")
    subprocess.run([comfyui_install.python, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    [packages] = (tmp_path / "venv" / "lib").glob("*/site-packages")
    command = [comfyui_install.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    comfyui = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    needs = tmp_path / "needs"
    needs.mkdir()
    for each in Path(SITE).iterdir():
        if not each.name.startswith(PACKAGE):
            (needs / each.name).symlink_to(each)
    (packages / "comfyui.pth").write_text(f"{comfyui}\n{needs}\n")
    wheel(tmp_path / "wheels")
    return tmp_path / "venv" / "bin" / "python"


def wheel(folder: Path) -> None:
    """The installed package as the file that it was installed from."""
    [found] = importlib.metadata.distributions(name=PACKAGE, path=[SITE])
    [tag] = (line.partition(": ")[2] for line in (found.read_text("WHEEL") or "").splitlines() if line[:4] == "Tag:")
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{PACKAGE}-{found.version}-{tag}.whl", "w") as archive:
        for file in found.files or ():
            if file.suffix != ".pyc" and ".." not in file.parts:
                archive.write(found.locate_file(file), str(file))


@pytest.fixture
def server(comfyui_install: Install, python: Path, machine: World, tmp_path: Path) -> Iterator[ComfyUI]:
    boot = Boot("clone", scene.PACKS, environ=(("RYLA_CATALOGUE", machine.environment["RYLA_CATALOGUE"]),))
    (tmp_path / "base").mkdir()
    running = ComfyUI.start(Install(comfyui_install.root, python), tmp_path / "base", boot)
    scene.photo(running)
    yield running
    running.stop()


def lay_tokenizers(small: Path, models: Path) -> None:
    """The real encoders' tokenizers come with ComfyUI; those of the small ones lie beside them."""
    names = {
        "text_encoders/tiny-clip_l": "clip_l",
        "text_encoders/tiny-t5xxl": "t5xxl_fp16",
        "checkpoints/ryla-paint-sdxl": "RealVisXL_V5.0_fp16",
    }
    for source, name in names.items():
        for path in small.glob(f"{source}.*tokenizer.json"):
            target = models / path.parent.name / path.name.replace(Path(source).name, name)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())


def paste(command: str, machine: World, folder: Path) -> str:
    """Paste a line into a terminal, and answer yes where it asks; what it printed."""
    shell = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_FIND_LINKS": str(folder / "wheels")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RYLA_"))}
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    done = subprocess.run(
        ["bash", "-c", command],
        env={**kept, **machine.environment, **shell},
        cwd=folder,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout


def test_from_nothing_to_a_picture_by_what_the_screen_says(
    server: ComfyUI, edit: Edit, machine: World, tmp_path: Path
) -> None:
    lay_tokenizers(tmp_path / "small", server.base / "models")
    editor = edit(server)
    editor.open_template("4 FLUX.1 Dev with the face of a photo")
    editor.page.keyboard.press("Escape")  # 0.3.64's own list.
    editor.js(scene.MAKE_SMALL, SMALL)
    editor.run()
    told = commands(editor)
    assert len(told) == 2 and nothing_ran(server)
    scene.shot(editor, tmp_path, "told")
    dialog(editor).get_by_role("button", name="Close").click()
    for command in told:
        paste(command, machine, tmp_path)
    editor.run()
    assert not dialog(editor).count(), editor.shown()
    entry = editor.finish()
    assert entry["status"]["status_str"] == "success", entry["status"]
    scene.shot(editor, tmp_path, "picture")
    [picture] = server.output.glob("*.jpg")
    with Image.open(picture) as image:
        assert image.size == (scene.SIDE, scene.SIDE)
