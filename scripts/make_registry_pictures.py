"""Write what the ComfyUI registry shows of the pack: ``docs/pictures/icon.png`` and ``banner.png``.

    python scripts/make_registry_pictures.py

The icon is the gateway's page's, as a square of 400 pixels; the banner, 21:9, shows the templates' pictures.
"""

from __future__ import annotations

from pathlib import Path

import export_ui_workflows as templates
from PIL import Image, ImageDraw, ImageFont

TARGET = Path(__file__).resolve().parents[1] / "docs" / "pictures"
BACK, FRONT, DARK = "#b4441c", "#fff3e6", "#20140e"
ICON, FINER = 400, 4  # Drawn larger, so that edges are smooth.
BANNER, PICTURE, GAP = (1260, 540), 255, 32
TITLE, LINE = "RYLA", "FLUX.1 Dev with consistent characters"


def main() -> None:
    icon().save(TARGET / "icon.png", optimize=True)
    banner().quantize(128, dither=Image.Dither.NONE).save(TARGET / "banner.png", optimize=True)


def icon() -> Image.Image:
    """A person in a rounded square; measures as in ``gateway/page/icon.svg``, 32 across."""
    unit = ICON * FINER / 32
    picture = Image.new("RGBA", (ICON * FINER, ICON * FINER))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((0, 0, 32 * unit - 1, 32 * unit - 1), 7 * unit, fill=BACK)
    draw.ellipse((10 * unit, 7 * unit, 22 * unit, 19 * unit), fill=FRONT)
    draw.pieslice((5 * unit, 20 * unit, 27 * unit, 38 * unit), 180, 360, fill=FRONT)
    return picture.resize((ICON, ICON), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """The name, a line, and the pictures of the templates beneath."""
    picture = Image.new("RGB", BANNER, DARK)
    draw = ImageDraw.Draw(picture)
    mark = icon().resize((120, 120), Image.Resampling.LANCZOS)
    picture.paste(mark, (48, 48), mark)
    draw.text((196, 40), TITLE, fill=FRONT, font=ImageFont.load_default(72))
    draw.text((200, 122), LINE, fill=FRONT, font=ImageFont.load_default(34))
    left = (BANNER[0] - 4 * PICTURE - 3 * GAP) // 2
    for place, title in enumerate(templates.titled()):
        with Image.open(templates.FOLDERS[0] / f"{title}.jpg") as thumbnail:
            small = thumbnail.resize((PICTURE, PICTURE), Image.Resampling.LANCZOS)
        picture.paste(small, (left + place * (PICTURE + GAP), BANNER[1] - PICTURE - 48))
    return picture


if __name__ == "__main__":
    main()
