"""What can be drawn: single shapes and simple faces, as data; which combinations training never sees.

Everything is drawn from a ``random.Random``, so a seed names a scene exactly.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (245, 132, 31),
    "yellow": (250, 214, 40),
    "green": (40, 150, 70),
    "blue": (38, 90, 215),
    "purple": (125, 50, 170),
    "pink": (245, 130, 190),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (250, 250, 250),
    "black": (20, 20, 20),
    "grey": (150, 150, 150),
    "sky blue": (160, 210, 245),
    "cream": (250, 238, 205),
    "navy": (20, 35, 85),
    "mint": (175, 235, 205),
}
SIZES: dict[str, float] = {"small": 0.10, "medium": 0.155, "large": 0.21}
ROWS: dict[str, float] = {"top": 0.26, "middle": 0.5, "bottom": 0.74}
COLUMNS: dict[str, float] = {"left": 0.26, "centre": 0.5, "right": 0.74}
JITTER = 0.03
HIDDEN_PAIRS = {("white", "white"), ("white", "cream"), ("black", "black"), ("black", "navy"), ("blue", "navy")}

SKINS: dict[str, Colour] = {
    "pale": (250, 220, 195),
    "tan": (225, 172, 125),
    "brown": (160, 105, 65),
    "dark": (95, 60, 40),
}
HAIR_STYLES = ("short", "long", "curly", "bald")
HAIR_COLOURS: dict[str, Colour] = {
    "black": (25, 22, 25),
    "blond": (240, 205, 95),
    "red": (185, 60, 25),
    "grey": (165, 168, 175),
    "blue": (45, 85, 210),
}
HATS: dict[str, Colour] = {"green": (40, 150, 70), "purple": (125, 50, 170), "pink": (245, 130, 190)}
CLOTH: Colour = (70, 120, 130)
FRAME: Colour = (30, 30, 30)
FACE_BACKGROUNDS = ("white", "sky blue", "cream", "navy", "mint")

HELD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class ShapeScene:
    """One shape. ``x, y`` is its centre in parts of the canvas, ``radius`` half its width in parts of the canvas."""

    shape: str
    colour: str
    size: str
    row: str
    column: str
    background: str
    x: float
    y: float
    radius: float

    @property
    def held_out(self) -> bool:
        """Whether this (shape, colour, position) is kept for testing: about 15 % of all, fixed by a checksum."""
        return _share(f"{self.shape}|{self.colour}|{self.row}|{self.column}") < HELD_OUT_SHARE


@dataclass(frozen=True)
class FaceScene:
    """One drawn face. ``hat`` is None or a colour of ``HATS``; ``x, y`` is the centre of the face."""

    skin: str
    hair: str
    hair_colour: str
    glasses: bool
    beard: bool
    hat: str | None
    background: str
    x: float = 0.5
    y: float = 0.54

    @property
    def held_out(self) -> bool:
        """Whether this combination of attributes is kept for testing: about 15 % of all, fixed by a checksum."""
        parts = (self.skin, self.hair, self.hair_colour, self.glasses, self.beard, self.hat)
        return _share("|".join(map(str, parts))) < HELD_OUT_SHARE


Scene = ShapeScene | FaceScene


def named_looks(places: Sequence[int]) -> dict[str, Any]:
    """What a ``FaceScene`` has of a person, by the numbers of ``people.People.looks``."""
    skin, style, colour, beardless = places
    return {
        "skin": list(SKINS)[skin],
        "hair": HAIR_STYLES[style],
        "hair_colour": list(HAIR_COLOURS)[colour],
        "beard": not beardless,
    }


MIRA = FaceScene("pale", "long", "red", glasses=False, beard=False, hat="green", background="mint")


def _share(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**32


def random_shape(rng: random.Random) -> ShapeScene:
    """Any shape on a background from which its colour can be told."""
    while True:
        colour, background = rng.choice(list(COLOURS)), rng.choice(list(BACKGROUNDS))
        if (colour, background) not in HIDDEN_PAIRS:
            break
    size, row, column = rng.choice(list(SIZES)), rng.choice(list(ROWS)), rng.choice(list(COLUMNS))
    return ShapeScene(
        rng.choice(SHAPES),
        colour,
        size,
        row,
        column,
        background,
        x=COLUMNS[column] + rng.uniform(-JITTER, JITTER),
        y=ROWS[row] + rng.uniform(-JITTER, JITTER),
        radius=SIZES[size] * rng.uniform(0.95, 1.05),
    )


def random_face(rng: random.Random) -> FaceScene:
    """Any face; a bald one has no hair colour but that of its beard."""
    return FaceScene(
        skin=rng.choice(list(SKINS)),
        hair=rng.choice(HAIR_STYLES),
        hair_colour=rng.choice(list(HAIR_COLOURS)),
        glasses=rng.random() < 0.5,
        beard=rng.random() < 0.35,
        hat=rng.choice(list(HATS)) if rng.random() < 0.4 else None,
        background=rng.choice(FACE_BACKGROUNDS),
        x=0.5 + rng.uniform(-0.03, 0.03),
        y=0.54 + rng.uniform(-0.03, 0.03),
    )


def random_scene(rng: random.Random, held_out: bool, face_share: float = 0.35) -> Scene:
    """A scene that is, or is not, among the held-out combinations."""
    while True:
        scene = random_face(rng) if rng.random() < face_share else random_shape(rng)
        if scene.held_out == held_out:
            return scene
