"""Write the pictures that ComfyUI's template browser shows (a ``.jpg`` beside each template, 512x512), and README's of
a person in four scenes.

    python scripts/make_thumbnails.py

They show what the workflows paint on the embedded engine, at the size that its models know best; those with a face
beside the photo that they are given.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import export_ui_workflows as templates
from PIL import Image, ImageOps
from ryla_nodes import settings
from ryla_nodes.batch.contact_sheet import Thumbnail, make
from ryla_nodes.client import Client
from ryla_nodes.engines.embedded.server.server import EngineServer
from ryla_nodes.identity import demo_people
from ryla_nodes.nodes import node_classes

SIZE, PAINTED = 512, 256
SHAPE = "a large yellow star in the middle, navy background"
FACE = "a portrait of a person, brown skin, short blue hair, no glasses, a blue beard, no hat, sky blue background"
CHARACTER = "mira, a portrait, sky blue background"
PERSON = "a portrait of a person, smiling, no glasses, no hat, mint background"
SCENES = (
    "a portrait of a person, smiling, no glasses, no hat, sky blue background",
    "a portrait of a person, calm, glasses, no hat, cream background",
    "a portrait of a person, surprised, no glasses, a green hat, navy background",
    "a portrait of a person, sad, no glasses, a purple hat, mint background",
)
SOMEBODY, PHOTO = 6, 160
"""Whose photo it is, and its side in the corner."""
PERSON_SHEET = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "person.jpg"


def paint(client: Client, workflow: str, **parameters: object) -> Image.Image:
    """The picture of one run, enlarged to SIZE."""
    result = client.run(workflow, {"width": PAINTED, "height": PAINTED, "seed": 1, **parameters})
    return Image.open(io.BytesIO(result.pictures[0].data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def with_photo(picture: Image.Image, photo: Path) -> Image.Image:
    """The picture with the reference photo in its lower right corner, in a white frame."""
    with Image.open(photo) as reference:
        small = ImageOps.expand(reference.convert("RGB").resize((PHOTO, PHOTO)), 4, "white")
    picture.paste(small, (SIZE - small.width, SIZE - small.height))
    return picture


def person_sheet(client: Client, photo: Path, folder: Path) -> None:
    """The photo and SCENES with the person in it, each with how alike the face is: as they came, one seed."""
    shown = [Thumbnail(photo, "the photo")]
    for number, scene in enumerate(SCENES):
        values = {"prompt": scene, "reference_image": photo, "seed": 1, "width": SIZE, "height": SIZE, "format": "png"}
        result = client.run("sdxl-instantid", values)
        path = folder / f"scene-{number}.png"
        result.save(path)
        told = scene.removeprefix("a portrait of a person, ").removesuffix(" background")
        shown.append(Thumbnail(path, f"{told}: {result.face_similarity:.2f}"))
    make(shown, PERSON_SHEET, columns=len(shown), lines=2)


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        alone = settings.load({"RYLA_HOME": home})
        photo = Path(home) / "photo.png"
        demo_people.save(SOMEBODY, demo_people.REFERENCES[0], photo)
        with (
            EngineServer(Path(home), node_classes(), settings=alone) as engine,
            Client(engine.url, settings=alone) as client,
        ):
            pictures = {
                "flux-dev": paint(client, "flux-dev", prompt=SHAPE),
                "flux-lora": paint(client, "flux-lora", prompt=CHARACTER, lora_id="mira"),
                "flux-instantid": paint(client, "flux-instantid", prompt=FACE, reference_image=photo),
                "sdxl-instantid": paint(client, "sdxl-instantid", prompt=PERSON, reference_image=photo),
            }
            person_sheet(client, photo, Path(home))
            print(PERSON_SHEET)
        for name in ("flux-instantid", "sdxl-instantid"):
            pictures[name] = with_photo(pictures[name], photo)
    for title, workflow in templates.titled().items():
        for folder in templates.FOLDERS:
            path = folder / f"{title}.jpg"
            pictures[workflow.name].save(path, quality=88)
            print(path)


if __name__ == "__main__":
    main()
