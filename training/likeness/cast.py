"""Who is asked for: held-out people, their photos, and prompts in words that no training text has."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from ryla_nodes.files import replacing

from ..captions import caption as scene_caption
from ..face_stages import as_bytes
from ..people import HELD_OUT, People, people, views
from ..portraits import portraits
from ..scenes import BACKGROUNDS, FACE_BACKGROUNDS, HATS, FaceScene, named_looks
from ..sdxl.captions import EXPRESSIONS, GLASSES, GROUNDS, HEADWEAR, UNSAID, caption, corpus
from ..sdxl.plan import Plan

PHOTO = 320
"""Side of a reference photo in pixels."""
PHOTO_VIEW = 0
_SEED = 2026
_VIEWS = 100
_SCALES = {PHOTO_VIEW: (0.25, 0.35)}
_ANY_SCALE = (0.12, 0.42)

Picture = NDArray[np.uint8]


def drawn(number: int, which: int) -> Picture:
    """View ``which`` of person ``number``, (PHOTO, PHOTO, 3); the photo is view ``PHOTO_VIEW``."""
    assert number < HELD_OUT and which < _VIEWS
    chance = torch.Generator().manual_seed(_SEED * 10**8 + number * _VIEWS + which)
    view = views(1, chance, scale=_SCALES.get(which, _ANY_SCALE))
    picture: Picture = as_bytes(portraits(_person(number), view, PHOTO))[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(picture)


def photo(number: int, folder: Path) -> Path:
    """The reference photo of person ``number`` as a file of ``folder``."""
    path = folder / f"person-{number:04}.png"
    if not path.exists():
        with replacing(path) as part:
            Image.fromarray(drawn(number, PHOTO_VIEW)).save(part, "PNG")
    return path


def _person(number: int) -> People:
    return people(torch.tensor([number]))


def prompt(number: int, *, pair: bool = False) -> str:
    """What is said of picture ``number`` of SDXL: a wording that no training text has."""
    rng = random.Random(f"{_SEED} {number} {pair}")
    while True:
        tables = (GROUNDS, HEADWEAR, GLASSES, EXPRESSIONS)
        said = [rng.choice([word for word in table if word != UNSAID]) for table in tables]
        if pair:
            said[1:] = [UNSAID] * 3
        text = caption(*said, rng, pair=pair)
        if pair or text not in _trained_texts():
            return text


@cache
def _trained_texts() -> frozenset[str]:
    return frozenset(corpus(Plan().seed))


def scene(number: int) -> FaceScene | None:
    """A held-out scene for the small FLUX that fits person ``number``; None where every one of theirs was trained on.

    FLUX paints the hair and the skin around the face: the prompt has to say them, as it has to with the real one.
    """
    looks = named_looks(_person(number).looks[0].tolist())
    rng = random.Random(f"{_SEED} {number} scene")
    choices = [
        FaceScene(**looks, glasses=glasses, hat=hat, background=rng.choice(FACE_BACKGROUNDS))
        for glasses in (True, False)
        for hat in (None, *HATS)
    ]
    held_out = [each for each in choices if each.held_out]
    return rng.choice(held_out) if held_out else None


def scene_prompt(number: int, asked: FaceScene) -> str:
    """``asked`` in words, complete."""
    return scene_caption(asked, random.Random(f"{_SEED} {number} words"), complete=True)


def fitting(count: int) -> list[int]:
    """The first ``count`` people for whom there is a held-out scene."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        if scene(number) is not None:
            found.append(number)
        number += 1
    return found


assert set(BACKGROUNDS) <= set(GROUNDS)
