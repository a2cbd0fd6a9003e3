"""The help pages in the editor's narrow panel: whole, nothing cut off at the side."""

from __future__ import annotations

import pytest
from comfyui.conftest import StartComfyUI
from comfyui.editor.conftest import Edit
from comfyui.process import REPO, ComfyUI, Install

NODES = sorted(path.stem for path in (REPO / "custom_nodes" / "ryla_nodes" / "web" / "docs").glob("*.md"))
# The page of a node, as by the "?" of the node library.
_OPEN = """(type) => {
    const stores = document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s;
    app.extensionManager.sidebarTab.activeSidebarTabId = "node-library";
    stores.get("nodeHelp").openHelp(stores.get("nodeDef").nodeDefsByName[type]);
}"""
# What reaches over the panel's side, less what is in a box that can be scrolled.
_CUT = """() => {
    const page = [...document.querySelectorAll(".node-help-content")].find((each) => each.checkVisibility());
    const side = page.getBoundingClientRect().right + 1;
    const reaches = [...page.querySelectorAll("*")].filter((each) =>
        each.getBoundingClientRect().right > side && !each.closest("pre"));
    return [page.innerText, reaches.map((each) => each.innerText.slice(0, 60))];
}"""


@pytest.fixture
def server(start_comfyui: StartComfyUI) -> ComfyUI:
    return start_comfyui(route="clone")


def test_no_page_is_cut_at_the_side(edit: Edit, server: ComfyUI, comfyui_install: Install) -> None:
    if comfyui_install.version >= (0, 20):
        pytest.skip("Does not apply: this ComfyUI shows the pages in a wide panel.")
    editor = edit(server)
    cut = {}
    for node in NODES:
        editor.js(_OPEN, node)
        editor.settle(1)
        text, reaching = editor.js(_CUT)
        title = (
            (REPO / "custom_nodes/ryla_nodes/web/docs" / f"{node}.md").read_text().splitlines()[0].removeprefix("# ")
        )
        assert title in text, f"the page of {node} is not shown"
        cut |= {node: reaching} if reaching else {}
    assert cut == {}
