"""Pictures in rows on one sheet, each in the middle of its tile with a caption below it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int] | str

LINE = 15
"""The height of a further line of a caption, in pixels."""


@dataclass(frozen=True)
class Style:
    """Sizes in pixels; ``caption`` is the height of the room below a tile, for one line."""

    tile: int = 256
    caption: int = 22
    gap: int = 8
    font: int = 13
    paper: Color = (24, 24, 26)
    ink: Color = (214, 214, 214)
    empty: Color = (60, 60, 64)


class Sheet:
    """A sheet of ``columns`` by ``rows`` tiles whose captions have up to ``lines`` lines.

    Attributes:
        image: what is drawn so far.
    """

    def __init__(self, columns: int, rows: int, style: Style = Style(), *, lines: int = 1) -> None:
        self._style = style
        self._across = style.tile + style.gap
        self._down = self._across + style.caption + (lines - 1) * LINE
        self.image = Image.new("RGB", (columns * self._across + style.gap, rows * self._down + style.gap), style.paper)
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(size=style.font)

    def add(
        self, column: int, row: int, picture: Image.Image | None, caption: str, *, ink: Color | None = None
    ) -> None:
        """Draw a picture that is no larger than a tile, or an empty place; each line is cut to the tile's width."""
        style = self._style
        left, top = style.gap + column * self._across, style.gap + row * self._down
        if picture is None:
            self._draw.rectangle((left, top, left + style.tile - 1, top + style.tile - 1), outline=style.empty)
        else:
            place = left + (style.tile - picture.width) // 2, top + (style.tile - picture.height) // 2
            self.image.paste(picture, place)
        for number, line in enumerate(caption.split("\n")):
            at = left, top + style.tile + 3 + number * LINE
            self._draw.text(at, self._fitting(line), fill=ink or style.ink, font=self._font)

    def wrapped(self, text: str) -> str:
        """``text`` in lines that are no wider than a tile, where its words allow it."""
        lines: list[str] = []
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self._font.getlength(longer) <= self._style.tile:
                lines[-1] = longer
            else:
                lines.append(word)
        return "\n".join(lines)

    def _fitting(self, line: str) -> str:
        while line and self._font.getlength(line) > self._style.tile:
            line = line[:-1]
        return line
