"""A contact sheet as JPEG: pictures in rows, the prompt of each below it, red where the picture is wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE, LETTERS = 152, 8, 13, 25
PAPER, INK, WRONG = "white", (40, 40, 44), (190, 30, 30)


@dataclass(frozen=True)
class Cell:
    """One picture, what was asked for, and whether it is that."""

    file: Path
    prompt: str
    right: bool = True


def make(cells: Sequence[Cell], columns: int, path: Path) -> None:
    """Write ``cells`` in reading order."""
    texts = [textwrap.wrap(cell.prompt, LETTERS) for cell in cells]
    pitch = CELL + GAP, CELL + GAP + LINE * max(map(len, texts))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * pitch[0] + GAP, rows * pitch[1] + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for place, (cell, lines) in enumerate(zip(cells, texts, strict=True)):
        left, top = GAP + place % columns * pitch[0], GAP + place // columns * pitch[1]
        with Image.open(cell.file) as picture:
            sheet.paste(picture.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))
        for number, line in enumerate(lines):
            draw.text((left, top + CELL + 1 + number * LINE), line, INK if cell.right else WRONG, font)
    sheet.save(path, quality=88)
