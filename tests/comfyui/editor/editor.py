"""ComfyUI's graph editor in a browser, used as a person does: what is clicked, what is shown, what is complained of."""

from __future__ import annotations

import base64
import json
import mimetypes
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfyui.process import REPO, ComfyUI
from ryla_nodes import settings
from ryla_nodes.workflows import manifest

_READY = "() => window.app?.vueAppReady && window.app.extensionManager?.command && window.app.canvas"
# What a person can read beside the canvas: dialogs, toasts, and the panels and cards at the edges.
_SHOWN = (
    "[role=dialog], [role=alert], .p-toast-message, .side-bar-panel, "
    "[data-testid=error-overlay], [data-testid=properties-panel]"
)
_DROP = """([name, type, bytes64, x, y]) => {
    const bytes = Uint8Array.from(atob(bytes64), (each) => each.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type }));
    const target = document.elementFromPoint(x, y) ?? document.body;
    const event = { bubbles: true, cancelable: true, dataTransfer, clientX: x, clientY: y };
    for (const kind of ["dragenter", "dragover", "drop"]) target.dispatchEvent(new DragEvent(kind, event));
}"""
# The corners of a node on the screen; clicks on it need its title bar, which lies above its position.
_BOX = """(id) => {
    const node = app.canvas.graph.nodes.find((each) => String(each.id) === String(id));
    const { scale, offset } = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
    const at = (x, y) => [(x + offset[0]) * scale + box.left, (y + offset[1]) * scale + box.top];
    return [...at(node.pos[0], node.pos[1] - 30), ...at(node.pos[0] + node.size[0], node.pos[1] + node.size[1])];
}"""
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ConfirmDelete": False,
    "Comfy.Release.Status": "what's new seen",
}


class Editor:
    """One tab with the editor of ``server`` in it.

    Attributes:
        page: the tab, for what has no method here.
        complaints: errors and warnings of the console and uncaught exceptions since the tab was opened.
    """

    def __init__(
        self, browser: Any, server: ComfyUI, settings: Mapping[str, Any] | None = None, **context: Any
    ) -> None:
        self.server = server
        server.http.post("/api/settings", json={**SETTINGS, **(settings or {})}).raise_for_status()
        self.context = browser.new_context(**{"viewport": {"width": 1600, "height": 1000}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("console", lambda said: self._note(said.text) if said.type in ("error", "warning") else None)
        self.open()

    def _note(self, text: str) -> None:
        self.complaints.append(text.replace(self.server.url, ""))

    def open(self) -> None:
        """Go to the editor, or load it anew, and wait until it can be used."""
        self.page.goto(self.server.url)
        self.page.wait_for_function(_READY)
        self.settle()

    def close(self) -> None:
        self.context.close()

    def settle(self, seconds: float = 0.5) -> None:
        """Let what was begun be drawn."""
        self.page.wait_for_timeout(seconds * 1000)

    def js(self, source: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression or function, in which ``app`` is the editor's; promises are awaited."""
        return self.page.evaluate(source, argument)

    # --- graphs -------------------------------------------------------------------------------------------------------

    def load(self, workflow: Mapping[str, Any]) -> None:
        """Open a workflow in the editor's format."""
        self.js("async (graph) => { await app.loadGraphData(graph) }", dict(workflow))
        self.settle()

    def load_template(self, workflow: str) -> None:
        """Open the template of a shipped workflow, and close the list of missing models that ComfyUI 0.3.64 shows."""
        self.load(template(workflow))
        for dialog in self.page.locator(".p-dialog-mask").all():
            self.page.keyboard.press("Escape")
            dialog.wait_for(state="detached")

    def load_api(self, graph: Mapping[str, Any], name: str = "graph") -> None:
        """Open a graph in the API's format, as dropping the file does."""
        self.js("async ([graph, name]) => { await app.loadApiJson(graph, name) }", [dict(graph), name])
        self.settle()

    def browse_templates(self, pack: str = "ryla-nodes") -> None:
        """Open the templates of a pack, as by *Workflow > Browse Templates*."""
        self.command("Comfy.BrowseTemplates")
        self.page.get_by_text(pack, exact=True).first.click()
        self.settle()

    def open_template(self, title: str, pack: str = "ryla-nodes") -> None:
        """Open a template by the title that its card shows."""
        self.browse_templates(pack)
        self.page.get_by_role("dialog").get_by_text(title, exact=True).first.click()
        self.page.wait_for_function("() => app.graph.nodes.length > 0")
        self.settle(1)

    def command(self, name: str) -> None:
        """Run a command of the editor, as its menu or its key does."""
        self.js("async (name) => { await app.extensionManager.command.execute(name) }", name)
        self.settle()

    def graph(self) -> dict[str, Any]:
        """The workflow as it would be saved."""
        return dict(self.js("() => app.graph.serialize()"))

    def prompt(self) -> dict[str, Any]:
        """The API graph that Run would send."""
        return dict(self.js("async () => (await app.graphToPrompt()).output"))

    def set(self, node: str, widget: str, value: Any) -> None:
        """Put a value into a widget of the first node of a type."""
        self.js(
            """([type, name, value]) => {
                const node = app.graph.nodes.find((each) => each.type === type);
                const widget = node.widgets.find((each) => each.name === name);
                widget.value = value; widget.callback?.(value);
            }""",
            [node, widget, value],
        )

    def box(self, node_id: int | str) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a node on the screen, in pixels."""
        left, top, right, bottom = self.js(_BOX, node_id)
        return left, top, right, bottom

    def drop(self, file: Path, x: float = 800, y: float = 500) -> None:
        """Drop a file at a place of the window."""
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self.js(_DROP, [file.name, kind, base64.b64encode(file.read_bytes()).decode(), x, y])
        self.settle(1)

    # --- runs ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Press Run; what comes of it is the caller's to look at."""
        # Beside it, and called the same by some versions, is the button that opens its menu.
        self.page.locator("[data-testid=queue-button] .p-splitbutton-button, button[data-testid=queue-button]").click()
        self.settle(1)

    def finish(self, timeout: float = 240) -> dict[str, Any]:
        """Wait until nothing is queued or running; the newest entry of the history ({} when there is none)."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not any(self.server.get("/queue").values()):
                self.settle()
                entries = self.server.get("/history")
                return dict(list(entries.values())[-1]) if entries else {}
            self.settle(0.3)
        raise AssertionError(f"Still running after {timeout} s:\n{self.server.log[-3000:]}")

    # --- what is shown ------------------------------------------------------------------------------------------------

    def shown(self) -> str:
        """The text of every dialog, toast and panel that can be seen."""
        texts = self.js(
            """(what) => [...document.querySelectorAll(what)]
                .filter((each) => each.checkVisibility()).map((each) => each.innerText)""",
            _SHOWN,
        )
        return "\n".join(text.strip() for text in texts if text.strip())

    def shot(self, path: Path) -> Path:
        """Save a picture of the window."""
        self.page.screenshot(path=path)
        return path


def read(path: Path) -> dict[str, Any]:
    """A workflow file."""
    return dict(json.loads(path.read_text()))


def template(workflow: str) -> dict[str, Any]:
    """The template of a shipped workflow."""
    title = manifest.load(workflow, settings.load()).title
    return read(next((REPO / "example_workflows").glob(f"[0-9] {title}.json")))
