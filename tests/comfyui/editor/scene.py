"""A template of this repository made small enough for a test: small models, a drawn photo, few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfyui.editor.editor import Editor
from comfyui.process import REPO, ComfyUI
from face_models import portrait

PACKS = tuple(
    REPO / "tests" / "comfyui" / "packs" / name for name in ("ryla_test_small_shapes", "ryla_test_small_sdxl.py")
)
PHOTO = "photo.png"
SIDE, STEPS = 256, 2
# What small models and a test want, on the nodes that are seen and on those in subgraphs: values by the widget's name,
# or by the node's type and that.
MAKE_SMALL = """(values) => {
    const all = (graph) => graph.nodes.flatMap((each) => [each, ...(each.subgraph ? all(each.subgraph) : [])]);
    for (const node of all(app.rootGraph ?? app.graph))
        for (const widget of node.widgets ?? []) {
            const value = values[`${node.type}.${widget.name}`] ?? values[widget.name];
            if (value !== undefined) { widget.value = value; widget.callback?.(value); }
        }
}"""


def photo(server: ComfyUI, seed: int = 3, name: str = PHOTO) -> str:
    """Put a drawn portrait into the input folder."""
    folder = server.base / "input"
    folder.mkdir(exist_ok=True)
    portrait(seed, 320, 320, face=0.5).save(folder / name)
    return name


def api(name: str, **inputs: Any) -> dict[str, Any]:
    """The API graph of a shipped workflow, small; ``inputs`` go to every node that has an input of that name."""
    from comfyui.editor.editor import read

    graph = read(REPO / "workflows" / name / "api.json")
    for node in graph.values():
        small = {"steps": STEPS, "seed": 5, "image": PHOTO if node["class_type"] == "LoadImage" else None}
        small |= {"width": SIDE, "height": SIDE, "size": SIDE}
        small |= {"model": "tiny-flux.safetensors"} if node["class_type"] == "RYLA_FluxLoader" else {}
        for key, value in {**small, **inputs}.items():
            if value is not None and key in node["inputs"] and not isinstance(node["inputs"][key], list):
                node["inputs"][key] = value
    return graph


def text_on(editor: Editor, kind: str) -> str:
    """What the first node of a type reports, as it is shown on it."""
    return str(
        editor.js(
            """(type) => {
                const node = app.graph.nodes.find((each) => each.type === type);
                return node.widgets?.find((each) => each.name === "ryla_report")?.element.textContent ?? "";
            }""",
            kind,
        )
    )


def told_by(editor: Editor, title: str) -> str:
    """What the node or the folded stage of a title reports, as it is shown on it."""
    return str(
        editor.js(
            """(title) => {
                const node = app.graph.nodes.find((each) => each.title === title);
                return node.widgets?.find((each) => each.name === "ryla_report")?.element.textContent ?? "";
            }""",
            title,
        )
    )


def look_at(editor: Editor, kind: str, scale: float = 1.2) -> None:
    """Bring the first node of a type into view."""
    editor.js(
        """([type, scale]) => {
            const node = app.graph.nodes.find((each) => each.type === type);
            const { ds } = app.canvas;
            [ds.scale, ds.offset[0], ds.offset[1]] = [scale, 200 - node.pos[0], 120 - node.pos[1]];
            app.canvas.setDirty(true, true);
        }""",
        [kind, scale],
    )
    editor.settle(1)


def shot(editor: Editor, folder: Path, name: str) -> Path:
    """Save a picture of the window, called after the ComfyUI."""
    version = ".".join(map(str, editor.server.install.version))
    return editor.shot(folder / f"{name}-{version}.png")
