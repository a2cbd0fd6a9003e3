"""A models folder that this user may read and not write: said where it happens, and nothing else is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui.editor.conftest import Edit
from comfyui.editor.test_missing import commands, dialog
from comfyui.process import Boot, ComfyUI, Install
from ryla_nodes import settings
from ryla_nodes.workflows import manifest
from unit.models_world import World, world

NOBODY = 65534
# Root may write everywhere. This user may read everywhere, as the Python and the ComfyUI of the tests want it.
DROP = (
    f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=-all,+dac_read_search "
    "--ambient-caps=-all,+dac_read_search"
)


@pytest.fixture
def nobodys(tmp_path: Path) -> str:
    """How another user runs a command, where the tests are root; else they are that user."""
    if not hasattr(os, "geteuid"):
        pytest.skip("Does not apply: POSIX permissions")
    if os.geteuid():
        return ""
    if shutil.which("setpriv") is None or subprocess.run(f"{DROP} true", shell=True).returncode:
        pytest.skip("setpriv, which runs a command as another user, is not there")
    return DROP


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder below which others may look: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def machine(nobodys: str, place: Path) -> Iterator[World]:
    """A hub with small files in the place of the real ones, and a home of that user."""
    home = place / "theirs"
    home.mkdir()
    with world(home) as made:
        made.publish(manifest.load("flux-dev", settings.load({})).models)
        if nobodys:
            os.chown(home, NOBODY, NOBODY)
        yield made


@pytest.fixture
def server(comfyui_install: Install, nobodys: str, machine: World, place: Path) -> Iterator[ComfyUI]:
    """A ComfyUI of that user, whose ``models`` belongs to somebody else."""
    base, python = place / "base", place / "python"
    base.mkdir()
    theirs = f"chown -R {NOBODY} {base} && chown 0 {base}/models &&" if nobodys else ""
    python.write_text(f'#!/bin/sh\n{theirs} chmod 555 {base}/models && exec {nobodys} {comfyui_install.python} "$@"\n')
    python.chmod(0o755)
    catalogue = ("RYLA_CATALOGUE", machine.environment["RYLA_CATALOGUE"])
    running = ComfyUI.start(Install(comfyui_install.root, python), base, Boot("clone", environ=(catalogue,)))
    yield running
    running.stop()
    (base / "models").chmod(0o755)


def test_what_cannot_be_installed_there_is_said(server: ComfyUI, edit: Edit, nobodys: str, machine: World) -> None:
    editor = edit(server)
    editor.open_template("1 FLUX.1 Dev, text to image")
    editor.page.keyboard.press("Escape")  # 0.3.64's own list.
    editor.run()
    [command] = commands(editor)
    assert str(server.base / "models") in editor.shown()
    environ = {**os.environ, **machine.environment}
    line = f"{nobodys} {command} --yes"
    done = subprocess.run(line, shell=True, env=environ, capture_output=True, text=True, cwd="/", timeout=300)
    models = server.base / "models"
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert f"{models}" in done.stderr and "cannot be written" in done.stderr, done.stderr
    assert not any(path.is_file() for path in models.rglob("*"))
    dialog(editor).get_by_role("button", name="Close").click()
    assert "Traceback" not in server.log
