"""A browser before a real ComfyUI, for the tests of this folder.

Use::

    def test_it(edit, start_comfyui):
        editor = edit(start_comfyui(route="clone"))
        editor.open_template("flux-dev")
        editor.run()

At the end of a test its tabs are closed, and nothing may have been complained of that the same ComfyUI does not
complain of without this pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_archive
from browser import chromium
from comfyui.conftest import StartComfyUI
from comfyui.editor.editor import Editor
from comfyui.process import ComfyUI, Install

Edit = Callable[..., Editor]
# Said by the editor of pictures, workflows or nodes that are missing, whoever's they are.
_HUB = {"access-control-allow-origin": "*", "content-length": "1000000"}  # The size of a file is asked of the hub.
_EDITORS_OWN = (
    "Failed to load resource",
    "legacy queue/history menu",
    "is deprecated",
    "willReadFrequently",
    "Content Security",
)


@pytest.fixture(scope="module")
def browser(comfyui_install: Install) -> Iterator[Any]:
    """A browser for a module's tests: while it is open, its event loop keeps others from running in this process."""
    with chromium() as one:
        yield one


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack as it comes from the registry."""
    folder = tmp_path_factory.mktemp("registry")
    return registry_archive.unpack(registry_archive.pack(folder / "node.zip"), folder)


@pytest.fixture(params=["clone", "paths", "archive"])
def server(request: pytest.FixtureRequest, start_comfyui: StartComfyUI, unpacked: Path) -> ComfyUI:
    """A ComfyUI with our pack, by each route."""
    if request.param == "archive":
        return start_comfyui(route="none", packs=(unpacked,))
    return start_comfyui(route=request.param)


@pytest.fixture(scope="module")
def noise(browser: Any, start_comfyui: StartComfyUI) -> frozenset[str]:
    """What this ComfyUI's editor complains of without our pack."""
    editor = Editor(browser, start_comfyui(route="none"))
    editor.settle(2)
    editor.close()
    return frozenset(editor.complaints)


@pytest.fixture
def edit(browser: Any, noise: frozenset[str]) -> Iterator[Edit]:
    """Open the editor of a server in a tab of its own; ``settings`` are the editor's, other keywords the browser's."""
    opened: list[Editor] = []

    def opening(server: ComfyUI, settings: dict[str, Any] | None = None, **context: Any) -> Editor:
        opened.append(Editor(browser, server, settings, **context))
        opened[-1].page.route("https://huggingface.co/**", lambda route: route.fulfill(headers=_HUB))
        return opened[-1]

    yield opening
    for each in opened:
        each.close()
    said = [line for each in opened for line in each.complaints if line not in noise]
    assert not [line for line in said if not any(known in line for known in _EDITORS_OWN)]
