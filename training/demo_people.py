"""Draws the pictures that ``ryla face demo`` and ``ryla accept`` show: ``python -m training.demo_people``.

They are kept in the package, which has no drawing in it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image
from ryla_nodes.files import replacing
from ryla_nodes.identity import demo_people
from torch import Tensor

from .face_stages import as_bytes
from .people import people, views
from .portraits import portraits

FIRST = 8500
"""The number of the first of them: held out, and none of those that trainings are judged by."""
SIZE = 384
_QUALITY = 90
_FRONTAL = 0.2
_SCALE = (0.24, 0.34)


def pictures_of(person: int) -> Tensor:
    """The references, without hat and glasses, then the others, as chance has it: bytes (pictures, 3, SIZE, SIZE)."""
    count, number = len(demo_people.REFERENCES) + len(demo_people.OUTPUTS), FIRST + person
    who = people(torch.full((count,), number))
    chance = torch.Generator().manual_seed(number)
    view = views(count, chance, scale=_SCALE)
    reference = torch.arange(count) < len(demo_people.REFERENCES)
    frontal = views(count, chance, angle=_FRONTAL, scale=_SCALE)
    view = replace(
        view,
        yaw=torch.where(reference, frontal.yaw, view.yaw),
        pitch=torch.where(reference, frontal.pitch, view.pitch),
        roll=torch.where(reference, frontal.roll, view.roll),
        hat=torch.where(reference[:, None], torch.nan, view.hat),
        glasses=view.glasses & ~reference,
    )
    return as_bytes(portraits(who, view, SIZE))


def main() -> None:
    names = (*demo_people.REFERENCES, *demo_people.OUTPUTS)
    demo_people.FOLDER.mkdir(exist_ok=True)
    for person in range(demo_people.COUNT):
        for name, picture in zip(names, pictures_of(person).permute(0, 2, 3, 1).numpy(), strict=True):
            with replacing(demo_people.file(person, name)) as part:
                Image.fromarray(picture).save(part, "WEBP", quality=_QUALITY, method=6)


if __name__ == "__main__":
    main()
