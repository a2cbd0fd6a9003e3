"""Photos as people send them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from face_models import portrait
from PIL import Image
from ryla_nodes.errors import RylaError
from ryla_nodes.identity.images import read_photo


@pytest.fixture
def face() -> Image.Image:
    return portrait(1, 160, 120)


def test_an_exif_rotated_photo_stands_upright(tmp_path: Path, face: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    face.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = read_photo(tmp_path / "turned.jpg")
    assert upright.shape == (120, 160, 3)
    assert np.abs(upright.astype(int) - np.asarray(face)).mean() < 4


def test_grey_sixteen_bit_and_palette_photos_become_rgb(tmp_path: Path, face: Image.Image) -> None:
    face.convert("L").save(tmp_path / "grey.png")
    deep = np.asarray(face.convert("L"), np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    face.convert("P").save(tmp_path / "palette.png")
    grey = np.asarray(face.convert("L"))
    for name in ("grey.png", "deep.png"):
        assert np.abs(read_photo(tmp_path / name)[..., 1].astype(int) - grey).max() <= 1
    assert read_photo(tmp_path / "palette.png").shape == (120, 160, 3)


def test_transparent_pixels_lie_on_white(tmp_path: Path, face: Image.Image) -> None:
    face.putalpha(0)
    face.save(tmp_path / "clear.png")
    assert np.all(read_photo(tmp_path / "clear.png") == 255)


def test_cmyk(tmp_path: Path, face: Image.Image) -> None:
    face.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert np.abs(read_photo(tmp_path / "print.jpg").astype(int) - np.asarray(face)).mean() < 12


def test_the_first_frame_of_an_animation(tmp_path: Path, face: Image.Image) -> None:
    face.save(tmp_path / "wave.gif", save_all=True, append_images=[Image.new("RGB", face.size, "red")])
    assert np.abs(read_photo(tmp_path / "wave.gif").astype(int) - np.asarray(face)).mean() < 12


def test_a_huge_photo_is_scaled_down(tmp_path: Path) -> None:
    Image.new("RGB", (12000, 9000), (120, 90, 70)).save(tmp_path / "huge.jpg", quality=50)
    assert read_photo(tmp_path / "huge.jpg").shape == (3072, 4096, 3)


def bomb(path: Path, side: int) -> None:
    """A PNG of a few bytes that claims ``side`` x ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("side", [15_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    bomb(tmp_path / "bomb.png", side)
    with pytest.raises(RylaError) as caught:
        read_photo(tmp_path / "bomb.png")
    assert caught.value.code == "image_too_large"


def test_what_is_no_picture_is_named(tmp_path: Path, face: Image.Image) -> None:
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=95)
    broken = {
        "text.jpg": b"Dear all, please find the photo attached.",
        "empty.jpg": b"",
        "cut.jpg": buffer.getvalue()[: len(buffer.getvalue()) // 2],
        "cut.png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RylaError) as caught:
            read_photo(tmp_path / name)
        assert caught.value.code == "unreadable_image"
        assert name in caught.value.message
    with pytest.raises(RylaError, match="absent"):
        read_photo(tmp_path / "absent.jpg")
