"""The one fixture that starts a real ComfyUI, for the tests of this folder.

``COMFYUI_PATH`` names the source tree and ``COMFYUI_PYTHON`` its Python; without them comfy-cli's default workspace is
used. With none of them the tests are skipped. Use::

    def test_it(comfyui):                        # our pack, by extra_model_paths.yaml
    def test_more(start_comfyui):
        server = start_comfyui(packs=(Path("pack.py"),), models=(folder,), environ={"RYLA_VOLUME": "/x"})

Servers of equal arguments are shared within a session, so a test must not leave a job behind.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from comfyui.process import Boot, ComfyUI, Install


class StartComfyUI(Protocol):
    def __call__(
        self,
        route: str = "paths",
        packs: tuple[Path, ...] = (),
        models: tuple[Path, ...] = (),
        environ: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> ComfyUI: ...


def _workspace() -> Path | None:
    """comfy-cli's default or most recent workspace, else the place where it installs by default."""
    config = configparser.ConfigParser()
    config.read([Path.home() / ".config/comfy-cli/config.ini",
                 Path.home() / "Library/Application Support/comfy-cli/config.ini"])  # fmt: skip
    known = [config.get("DEFAULT", key, fallback="") for key in ("default_workspace", "recent_workspace")]
    places = [*(Path(path) for path in known if path), Path.home() / "comfy/ComfyUI"]
    return next((place for place in places if (place / "main.py").is_file()), None)


def _python(root: Path) -> Path:
    named = os.environ.get("COMFYUI_PYTHON")
    places = [Path(named)] if named else [root / ".venv/bin/python", root / "venv/bin/python", Path(sys.executable)]
    return next((place for place in places if place.is_file()), places[0])


@pytest.fixture(scope="session")
def comfyui_install() -> Install:
    named = os.environ.get("COMFYUI_PATH")
    root = Path(named) if named else _workspace()
    if root is None:
        pytest.skip("No ComfyUI found: set COMFYUI_PATH to its folder (and COMFYUI_PYTHON to its Python).")
    assert (root / "main.py").is_file(), f"{root} is not a ComfyUI: it has no main.py"
    return Install(root.resolve(), _python(root))


@pytest.fixture(scope="session")
def start_comfyui(comfyui_install: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartComfyUI]:
    """Start a ComfyUI, or give the one that runs already with the same arguments."""
    running: dict[Boot, ComfyUI] = {}

    def start(
        route: str = "paths",
        packs: tuple[Path, ...] = (),
        models: tuple[Path, ...] = (),
        environ: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> ComfyUI:
        boot = Boot(route, packs, models, tuple(sorted((environ or {}).items())), arguments)
        if boot not in running or running[boot].process.poll() is not None:
            running[boot] = ComfyUI.start(comfyui_install, tmp_path_factory.mktemp("comfyui"), boot)
        return running[boot]

    yield start
    for server in running.values():
        server.stop()


@pytest.fixture
def comfyui(start_comfyui: StartComfyUI) -> ComfyUI:
    """A ComfyUI with our pack in it."""
    return start_comfyui()
