"""Write the pictures that ComfyUI's template browser shows: a ``.jpg`` beside each template, 512x512.

    python scripts/make_thumbnails.py

``flux-dev`` and ``flux-lora`` show what they paint on the embedded engine, at the size that its models know best. The
small SDXL is untrained and would show noise, so the InstantID workflows show what it is given: a face and keypoints.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import export_ui_workflows as templates
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.client import Client
from ryla_nodes.engines.embedded.server.server import EngineServer
from ryla_nodes.identity import demo_faces
from ryla_nodes.identity.geometry import draw_keypoints
from ryla_nodes.nodes import node_classes

SIZE, PAINTED = 512, 256
SHAPE = "a large yellow star in the middle, navy background"
FACE = "a portrait of a person, tan skin, long black hair, no glasses, no beard, no hat, sky blue background"
CHARACTER = "mira, a portrait, sky blue background"
# Where the small model draws them, as training/render.py does, in parts of the picture: eyes, nose, mouth.
FACE_KEYPOINTS = np.array([[0.42, 0.53], [0.58, 0.53], [0.5, 0.6], [0.445, 0.67], [0.555, 0.67]], np.float32)
DEMO_FACE, DEMO_CENTER = 0.6, (0.5, 0.5)


def paint(client: Client, workflow: str, **parameters: object) -> Image.Image:
    """The picture of one run, enlarged to SIZE."""
    result = client.run(workflow, {"width": PAINTED, "height": PAINTED, "seed": 1, **parameters})
    return Image.open(io.BytesIO(result.pictures[0].data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def with_keypoints(picture: Image.Image, keypoints: NDArray[np.float32]) -> Image.Image:
    """The picture with (5, 2) keypoints, in parts of it, as InstantID's ControlNet sees them."""
    drawn = draw_keypoints(keypoints * SIZE, SIZE, SIZE)
    return Image.fromarray(np.where(drawn.any(axis=2, keepdims=True), drawn, np.asarray(picture)))


def main() -> None:
    demo = demo_faces.portrait(1, SIZE, SIZE, face=DEMO_FACE, center=DEMO_CENTER)
    demo_keypoints = demo_faces.KEYPOINTS * np.float32(DEMO_FACE) + np.array(DEMO_CENTER, np.float32)
    with tempfile.TemporaryDirectory() as home:
        alone = settings.load({"RYLA_HOME": home})
        with (
            EngineServer(Path(home), node_classes(), settings=alone) as engine,
            Client(engine.url, settings=alone) as client,
        ):
            pictures = {
                "flux-dev": paint(client, "flux-dev", prompt=SHAPE),
                "flux-lora": paint(client, "flux-lora", prompt=CHARACTER, lora_id="mira"),
                "flux-instantid": with_keypoints(paint(client, "flux-dev", prompt=FACE), FACE_KEYPOINTS),
                "sdxl-instantid": with_keypoints(demo, demo_keypoints),
            }
    for title, workflow in templates.titled().items():
        for folder in templates.FOLDERS:
            path = folder / f"{title}.jpg"
            pictures[workflow.name].save(path, quality=88)
            print(path)


if __name__ == "__main__":
    main()
