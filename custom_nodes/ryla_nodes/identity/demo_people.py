"""Pictures of drawn people, for trying the face commands and an acceptance run without photos of anybody.

``training/demo_people.py`` drew them; the engine's small models know such people, and have not seen these.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..files import replacing

FOLDER = Path(__file__).with_name("drawn_people")
COUNT = 20
REFERENCES = ("reference-1", "reference-2")
OUTPUTS = ("output-1", "output-2")
"""Two more pictures of each, as an engine might have made them."""


def file(person: int, picture: str) -> Path:
    """The file of one of ``REFERENCES`` or ``OUTPUTS`` of the person ``person``, from 0."""
    return FOLDER / f"{person + 1:02}-{picture}.webp"


def save(person: int, picture: str, path: Path) -> None:
    """Write it to ``path`` as PNG."""
    with Image.open(file(person, picture)) as image, replacing(path) as part:
        image.save(part, "PNG")
