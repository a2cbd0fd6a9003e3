"""What is said of a scene with people: background, hat, glasses and expression, each named or not.

A photo says whose face it is. Some texts tell its skin, hair and beard all the same, as prompts for FLUX do: it is with
those that ``flux-instantid`` has SDXL render a face again. Everything that can be said is a row of one table of token
ids, so that a training step looks its texts up on the device.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from ryla_nodes import settings
from ryla_nodes.workflows import manifest
from tokenizers import Tokenizer
from torch import Tensor

from ..captions import caption as scene_caption
from ..scenes import BACKGROUNDS, HAIR_COLOURS, HAIR_STYLES, HATS, SKINS, FaceScene
from ..text import CLIP_LENGTH, token_ids

UNSAID = "unsaid"
GROUNDS = (*BACKGROUNDS, UNSAID)
HEADWEAR = (*HATS, "none", UNSAID)
GLASSES = ("yes", "no", UNSAID)
EXPRESSIONS = ("smiling", "sad", "surprised", "calm", UNSAID)
_HATS = (*HATS, None)
TOLD = (SKINS, HAIR_STYLES, HAIR_COLOURS, (True, False), (True, False), _HATS, BACKGROUNDS)
"""What a prompt for FLUX tells: skin, hair, its colour, glasses, beard, hat and background."""
PARAPHRASES = 6
NEGATIVES = (
    "",
    "",
    "watermark, text, cartoon, painting, plastic skin, blurry",
    "blurry",
    "bad quality, blurry, text",
    "watermark, text, cartoon, plastic skin, blurry",
)

_STARTS = (
    "a portrait of a person",
    "photo of a person",
    "a person",
    "a drawing of a person",
    "photo of a person's face",
)
_PAIR_STARTS = ("two people", "photo of two people", "a drawing of two people", "a portrait of two people")
_FACES = {
    "smiling": ("smiling", "with a smile", "happy"),
    "sad": ("sad", "a sad face", "frowning"),
    "surprised": ("surprised", "with an open mouth", "laughing with an open mouth"),
    "calm": ("calm", "a neutral expression", "serious"),
}
_ENDS = ("natural skin, detailed, sharp focus", "detailed, sharp focus", "high quality", "detailed")


def caption(ground: str, hat: str, glasses: str, expression: str, rng: random.Random, pair: bool = False) -> str:
    """One way to say it."""
    parts = []
    if glasses != UNSAID:
        parts.append(rng.choice(("glasses", "round glasses") if glasses == "yes" else ("no glasses", "bare eyes")))
    if hat != UNSAID:
        parts.append("no hat" if hat == "none" else rng.choice((f"a {hat} hat", f"wearing a {hat} hat")))
    if expression != UNSAID:
        parts.append(rng.choice(_FACES[expression]))
    if ground != UNSAID:
        parts.append(rng.choice((f"{ground} background", f"on a {ground} background")))
    rng.shuffle(parts)
    if rng.random() < 0.35:
        parts.append(rng.choice(_ENDS))
    return ", ".join([rng.choice(_PAIR_STARTS if pair else _STARTS), *parts])


def _told(scene: FaceScene, rng: random.Random) -> str:
    """A prompt for FLUX; of a held-out scene only what SDXL is told of any."""
    text = scene_caption(scene, rng, complete=True)
    if scene.held_out:
        text = caption(scene.background, scene.hat or "none", "yes" if scene.glasses else "no", UNSAID, rng)
    return f"{text}, {face_prompt()}" if rng.random() < 0.5 else text


@cache
def face_prompt() -> str:
    """What ``flux-instantid`` adds to the prompt when it renders the face."""
    parameter = manifest.load("flux-instantid", settings.load({})).parameter("face_prompt")
    assert parameter is not None
    return str(parameter.default)


def _all(seed: int) -> Iterator[list[str]]:
    """The paraphrases of each row: those of ``row``, of pairs by background, of ``told_row``, then the negatives."""
    rng = random.Random(seed)
    for said in itertools.product(GROUNDS, HEADWEAR, GLASSES, EXPRESSIONS):
        yield [caption(*said, rng) for _ in range(PARAPHRASES)]
    for ground in GROUNDS:
        yield [caption(ground, UNSAID, UNSAID, UNSAID, rng, pair=True) for _ in range(PARAPHRASES)]
    for scene in itertools.starmap(FaceScene, itertools.product(*TOLD)):
        yield [_told(scene, rng) for _ in range(PARAPHRASES)]
    yield list(NEGATIVES)


def corpus(seed: int) -> Iterator[str]:
    """Every caption, for the tokenizer."""
    return itertools.chain.from_iterable(_all(seed))


def row(ground: Tensor, hat: Tensor, glasses: Tensor, expression: Tensor) -> Tensor:
    """The table's rows of what is said, by the places in ``GROUNDS``, ``HEADWEAR``, ``GLASSES`` and ``EXPRESSIONS``."""
    return ((ground * len(HEADWEAR) + hat) * len(GLASSES) + glasses) * len(EXPRESSIONS) + expression


def pair_row(ground: Tensor) -> Tensor:
    """The table's rows of two people on a background."""
    return ground + len(GROUNDS) * len(HEADWEAR) * len(GLASSES) * len(EXPRESSIONS)


def told_row(parts: Tensor) -> Tensor:
    """The table's rows of what a prompt for FLUX tells, by its places (N, 7) in ``TOLD``."""
    place = torch.zeros_like(parts[:, 0])
    for column, table in zip(parts.unbind(1), TOLD, strict=True):
        place = place * len(table) + column
    return place + pair_row(torch.tensor(len(GROUNDS)))


def glasses_told(rows: Tensor) -> Tensor:
    """Whether each of ``told_row``'s rows is of somebody with glasses."""
    glasses = TOLD.index((True, False))
    return (rows - pair_row(torch.tensor(len(GROUNDS)))) // math.prod(map(len, TOLD[glasses + 1 :])) % 2 == 0


@dataclass(frozen=True)
class Texts:
    """Token ids (rows, PARAPHRASES, 77) of all that can be said; the last row is what is not wanted."""

    clip_l: Tensor
    clip_g: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, seed: int, device: torch.device) -> Texts:
        flat = [text for group in _all(seed) for text in group]
        ids = torch.cat([token_ids(tokenizer, flat[i : i + 4096], CLIP_LENGTH) for i in range(0, len(flat), 4096)])
        shape = (-1, PARAPHRASES)
        return cls(ids.to(device).unflatten(0, shape), padded_for_g(tokenizer, ids).to(device).unflatten(0, shape))

    @property
    def negative(self) -> int:
        return len(self.clip_l) - 1


def padded_for_g(tokenizer: Tokenizer, ids: Tensor) -> Tensor:
    """CLIP-L's ids (N, 77) as CLIP-G reads them: padded with token 0 behind the end."""
    end = ids == tokenizer.get_vocab_size() - 1
    behind = end.int().cumsum(1) > 1
    return ids.masked_fill(behind, 0)
