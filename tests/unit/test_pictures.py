"""What is converted keeps its look, or is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from ryla_nodes import pictures
from ryla_nodes.batch.contact_sheet import Thumbnail, make
from ryla_nodes.client.results import Format, Picture, save
from ryla_nodes.errors import RylaError
from ryla_nodes.identity.images import read_photo

RAMP = np.linspace(0, 255, 16 * 16).round().astype(np.uint8).reshape(16, 16)
COLOURS = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 90)], axis=-1)


def _file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _see(data: bytes) -> np.ndarray[Any, Any]:
    """What a viewer shows: upright, on white, in sRGB."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def _transparent() -> Image.Image:
    return Image.fromarray(np.dstack([COLOURS, np.where(RAMP > 127, 255, 0).astype(np.uint8)]), "RGBA")


ON_WHITE = np.where((RAMP > 127)[..., None], COLOURS, 255)

LOOKS: dict[str, tuple[Callable[[], bytes], Any]] = {
    "16-bit grey": (lambda: _file(Image.fromarray(RAMP.astype(np.uint16) * 257)), np.dstack([RAMP] * 3)),
    "grey": (lambda: _file(Image.fromarray(RAMP)), np.dstack([RAMP] * 3)),
    "two colours": (lambda: _file(Image.fromarray(RAMP > 127)), np.dstack([(RAMP > 127) * 255] * 3)),
    "palette": (lambda: _file(Image.fromarray(COLOURS).quantize(256)), COLOURS),
    "transparent": (lambda: _file(_transparent()), ON_WHITE),
    "transparent palette": (lambda: _file(_transparent().quantize(256)), ON_WHITE),
    "turned": (
        lambda: _file(Image.fromarray(COLOURS).transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100,
                      subsampling=0, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        COLOURS,
    ),
    "CMYK": (lambda: _file(Image.fromarray(COLOURS).convert("CMYK"), "JPEG", quality=100), COLOURS),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", LOOKS)
def test_a_converted_picture_looks_the_same(name: str, kind: str) -> None:
    make_one, look = LOOKS[name]
    seen = pictures.convert(make_one(), kind, 100)
    with Image.open(io.BytesIO(seen)) as image:
        laid = Image.new("RGBA", image.size, "white")
        laid.alpha_composite(image.convert("RGBA"))
        shown = np.asarray(laid.convert("RGB"), np.int16)
    error = np.abs(shown - np.asarray(look, np.int16)).mean()
    assert error < (1 if kind == "PNG" and name not in ("turned", "CMYK", "palette", "transparent palette") else 14)
    assert not Image.open(io.BytesIO(seen)).getexif().get(0x0112)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_profile_goes_with_its_picture(kind: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = _file(Image.fromarray(COLOURS), icc_profile=profile)
    with Image.open(io.BytesIO(pictures.convert(data, kind, 95))) as image:
        assert image.info["icc_profile"] == profile


def test_a_damaged_profile_does_no_harm() -> None:
    data = _file(Image.fromarray(RAMP), icc_profile=b"junk" * 40)
    assert np.abs(_see(pictures.convert(data, "WEBP", 100)) - np.dstack([RAMP] * 3)).mean() < 4


def _moving() -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return _file(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def test_what_moves_goes_on_moving_or_is_refused_by_name() -> None:
    with Image.open(io.BytesIO(pictures.convert(_moving(), "WEBP", 95))) as image:
        assert getattr(image, "n_frames", 1) == 2
    with pytest.raises(RylaError, match="2 frames") as failure:
        pictures.convert(_moving(), "JPEG", 95)
    assert failure.value.code == "invalid_output_path"


def test_what_a_format_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    wide = Picture(_file(Image.new("L", (17000, 1))), Format.PNG, "9", "a.png", "", "output")
    with pytest.raises(RylaError, match="17000 x 1 pixels"):
        save([wide], tmp_path / "a.webp")
    with pytest.raises(RylaError, match="cannot be made a JPEG"):
        save([Picture(b"\x89PNG\r\n\x1a\n", Format.PNG, "9", "a.png", "", "output")], tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LOOKS)
def test_thumbnails_and_faces_see_the_same_look(name: str, tmp_path: Path) -> None:
    make_one, look = LOOKS[name]
    photo = tmp_path / "photo.png"
    photo.write_bytes(make_one())
    seen = read_photo(photo).astype(np.int16)
    assert np.abs(seen - np.asarray(look, np.int16)).mean() < 14
    assert make([Thumbnail(photo, "1")], tmp_path / "sheet.png") == 1
