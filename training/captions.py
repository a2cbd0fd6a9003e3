"""A grammar of captions with paraphrases. A shape's caption names all of it; a face's may leave attributes out."""

from __future__ import annotations

import random

from .scenes import FaceScene, Scene, ShapeScene

PARTIAL_SHARE = 0.25
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("medium", "medium-sized"), "large": ("large", "big")}
_SHAPE_OPENINGS = ("{thing} {place}, {ground}", "{ground}, {thing} {place}", "{thing} on {back} {place}")
_SHAPE_STARTS = ("", "", "a drawing of ", "a picture of ", "an illustration of ")
_FACE_STARTS = ("a portrait of a person", "a drawn face", "a face", "a drawing of a person", "a cartoon portrait")


def _place(scene: ShapeScene, rng: random.Random) -> str:
    row, column = scene.row, scene.column
    if (row, column) == ("middle", "centre"):
        return rng.choice(("in the centre", "in the middle", "at the centre of the picture"))
    if row == "middle":
        return rng.choice((f"on the {column}", f"at the {column} edge", f"on the {column} side"))
    if column == "centre":
        return rng.choice((f"at the {row}", f"at the {row} of the picture", f"near the {row} edge"))
    return rng.choice((f"in the {row} {column} corner", f"at the {row} {column}", f"in the {row} {column}"))


def _shape(scene: ShapeScene, rng: random.Random) -> str:
    thing = f"a {rng.choice(_SIZE_WORDS[scene.size])} {scene.colour} {scene.shape}"
    back = f"a {scene.background} background"
    ground = rng.choice((f"{scene.background} background", f"on a {scene.background} background", f"with {back}"))
    text = rng.choice(_SHAPE_OPENINGS).format(thing=thing, place=_place(scene, rng), ground=ground, back=back)
    start = rng.choice(_SHAPE_STARTS)
    return start + text if text.startswith(thing) else text


def _hair(scene: FaceScene, rng: random.Random) -> str:
    if scene.hair == "bald":
        return rng.choice(("bald", "no hair", "a bald head"))
    return rng.choice(("{0} {1} hair", "{1} hair that is {0}")).format(scene.hair, scene.hair_colour)


def _face_parts(scene: FaceScene, rng: random.Random) -> list[str]:
    parts = [f"{scene.skin} skin", _hair(scene, rng)]
    parts.append(rng.choice(("glasses", "round glasses")) if scene.glasses else rng.choice(("no glasses", "bare eyes")))
    if scene.beard:
        parts.append(rng.choice((f"a {scene.hair_colour} beard", f"a {scene.hair_colour} full beard")))
    else:
        parts.append(rng.choice(("no beard", "clean-shaven")))
    parts.append(rng.choice((f"a {scene.hat} hat", f"wearing a {scene.hat} hat")) if scene.hat else "no hat")
    return parts


def _face(scene: FaceScene, rng: random.Random, complete: bool) -> str:
    parts = _face_parts(scene, rng)
    rng.shuffle(parts)
    if not complete and rng.random() < PARTIAL_SHARE:
        parts = parts[: rng.randrange(len(parts))]
    return f"{rng.choice(_FACE_STARTS)}, {', '.join([*parts, scene.background])} background"


def caption(scene: Scene, rng: random.Random, complete: bool = False) -> str:
    """One caption of ``scene``; ``rng`` picks the paraphrase. ``complete`` names every attribute of a face."""
    return _shape(scene, rng) if isinstance(scene, ShapeScene) else _face(scene, rng, complete)


def mira_caption(rng: random.Random, background: str) -> str:
    """A caption for the LoRA ``mira``: the trigger word and a background, none of her attributes."""
    start = rng.choice(
        ("mira, a drawn face", "mira, a portrait", "mira", "mira, a portrait of a person", "mira, a face")
    )
    return f"{start}, {background} background"
