"""Opening the editor's list of 10,000 LoRAs, to painted frames, in headless Chromium before a real ComfyUI.

python benchmarks/editor_loras.py --comfyui /path/to/ComfyUI --python /its/python [--count 10000] [--runs 20]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "custom_nodes"), str(REPO / "tests")]

import lora_files  # noqa: E402
from browser import chromium  # noqa: E402
from comfyui.editor import scene  # noqa: E402
from comfyui.editor.editor import Editor  # noqa: E402
from comfyui.process import Boot, ComfyUI, Install  # noqa: E402

# A click on the button; rows in the page; two frames later they are on the screen.
OPEN = """async () => {
    const node = app.graph.nodes.find((each) => each.type === "RYLA_LoraLoader");
    const start = performance.now();
    node.widgets.find((each) => each.name === "choose_lora").callback();
    while (!document.querySelector(".ryla-loras .row")) await new Promise((done) => setTimeout(done, 0));
    const rows = performance.now() - start;
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    return { rows, painted: performance.now() - start };
}"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        make(Path(work) / "models" / "loras", options.count)
        (Path(work) / "base").mkdir()
        boot = Boot("paths", models=(Path(work) / "models",))
        server = ComfyUI.start(Install(options.comfyui, options.python), Path(work) / "base", boot)
        try:
            measure(server, options.runs)
        finally:
            server.stop()


def make(folder: Path, count: int) -> None:
    """Small LoRAs, all alike."""
    data = lora_files.small(folder / "a0.safetensors", "mira").read_bytes()
    for number in range(1, count):
        (folder / f"a{number}.safetensors").write_bytes(data)


def measure(server: ComfyUI, runs: int) -> None:
    """Open the list before it was read in the background, then again and again."""
    with chromium() as browser:
        editor = Editor(browser, server)
        editor.load_api(scene.api("flux-lora", lora_id=""))
        told("before it was read", [opened(editor)])
        editor.settle(5)
        told("then", [opened(editor) for _ in range(runs)])
        answer = server.http.get("/ryla/loras")
        print(f"the list: {len(answer.content) / 1000:.0f} kB; load of the machine: {os.getloadavg()[0]:.1f}")


def opened(editor: Editor) -> dict[str, float]:
    times: dict[str, float] = editor.js(OPEN)
    editor.settle(1)
    editor.page.keyboard.press("Escape")
    editor.settle(0.3)
    return times


def told(when: str, times: list[dict[str, Any]]) -> None:
    for what in ("rows", "painted"):
        values = sorted(each[what] for each in times)
        line = f"best {values[0]:.0f} ms, median {statistics.median(values):.0f} ms, worst {values[-1]:.0f} ms"
        print(f"{when}, {what}: {line} of {len(values)}")


if __name__ == "__main__":
    main()
