"""RYLA_SaveImage: files that are what they are called, with the workflow inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from ryla_nodes.engines.protocol import SaveTarget, running_in
from ryla_nodes.engines.schema import io
from ryla_nodes.errors import RylaError
from ryla_nodes.nodes import image as image_file
from ryla_nodes.nodes.image import SaveImage

PROMPT = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "Zoë am Fluß, 猫"}}}
WORKFLOW = {"nodes": [{"id": 1, "type": "CLIPTextEncode"}], "version": 0.4}
MAGIC = {"jpeg": b"\xff\xd8\xff", "webp": b"RIFF", "png": b"\x89PNG\r\n\x1a\n"}


class Folder:
    """An engine that only saves."""

    name = "test"

    def __init__(self, folder: Path, metadata: bool = True) -> None:
        self.folder, self.metadata, self.interrupted = folder, metadata, False

    def save_target(self, prefix: str, width: int, height: int) -> SaveTarget:
        name = prefix.replace("%width%", str(width)).replace("%height%", str(height))
        return SaveTarget(self.folder, name, 5, "sub", self.metadata)

    def check_interrupt(self) -> None:
        if self.interrupted:
            raise InterruptedError


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Folder]:
    engine = Folder(tmp_path)
    with running_in(engine):  # type: ignore[arg-type]
        yield engine


def pictures(count: int = 1, channels: int = 3) -> torch.Tensor:
    return torch.rand((count, 40, 56, channels), generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1


def save(
    images: torch.Tensor, format_name: str, quality: int = 92, metadata: bool = True, prefix: str = "p"
) -> list[str]:
    hidden = {io.Hidden.prompt: PROMPT, io.Hidden.extra_pnginfo: {"workflow": WORKFLOW}}
    node: Any = SaveImage.PREPARE_CLASS_CLONE(hidden)
    output = node.execute(images=images, filename_prefix=prefix, format=format_name, quality=quality, metadata=metadata)
    assert {(entry["subfolder"], entry["type"]) for entry in output.ui["images"]} == {("sub", "output")}
    return [entry["filename"] for entry in output.ui["images"]]


def texts(path: Path) -> dict[str, Any]:
    """The stored texts, read as ComfyUI's editor reads them."""
    with Image.open(path) as picture:
        if picture.format == "PNG":
            return {name: json.loads(value) for name, value in picture.text.items()}  # type: ignore[attr-defined]
        found = (value.partition(":") for value in picture.getexif().values() if isinstance(value, str))
        return {name: json.loads(value) for name, _, value in found}


@pytest.mark.parametrize("format_name", ["jpeg", "webp", "png"])
def test_a_file_is_what_it_is_called_and_holds_the_workflow(engine: Folder, format_name: str) -> None:
    names = save(pictures(2), format_name, prefix="a%width%x%height%_%batch_num%")
    assert names == [f"a56x40_{n}_0000{5 + n}_{image_file.FORMATS[format_name]}" for n in range(2)]
    for name in names:
        path = engine.folder / name
        assert path.read_bytes().startswith(MAGIC[format_name])
        assert texts(path) == {"prompt": PROMPT, "workflow": WORKFLOW}
        with Image.open(path) as picture:
            assert (picture.format, picture.size, picture.mode) == (format_name.upper(), (56, 40), "RGB")
    assert len(list(engine.folder.iterdir())) == 2


def test_a_png_has_core_save_images_pixels(engine: Folder) -> None:
    images = pictures()
    [name] = save(images, "png")
    core = (255.0 * images[0].numpy()).clip(0, 255).astype("uint8")
    with Image.open(engine.folder / name) as picture:
        assert picture.tobytes() == core.tobytes()


@pytest.mark.parametrize("format_name", ["jpeg", "webp", "png"])
def test_metadata_stays_out_when_it_is_switched_off(engine: Folder, format_name: str) -> None:
    [name] = save(pictures(), format_name, metadata=False)
    assert texts(engine.folder / name) == {}
    assert b"CLIPTextEncode" not in (engine.folder / name).read_bytes()


def test_metadata_stays_out_when_the_engine_forbids_it(engine: Folder) -> None:
    engine.metadata = False
    [name] = save(pictures(), "png")
    assert texts(engine.folder / name) == {}


@pytest.mark.parametrize("format_name", ["jpeg", "webp"])
def test_quality_changes_the_size(engine: Folder, format_name: str) -> None:
    sizes = [
        (engine.folder / save(pictures(), format_name, quality, prefix=f"q{quality}")[0]).stat().st_size
        for quality in (10, 60, 92, 100)
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("quality", "factors"), [(94, (2, 2)), (95, (1, 1))])
def test_high_quality_jpegs_keep_full_colour_resolution(engine: Folder, quality: int, factors: tuple[int, int]) -> None:
    [name] = save(pictures(), "jpeg", quality)
    with Image.open(engine.folder / name) as picture:
        assert picture.layer[0][1:3] == factors  # type: ignore[attr-defined]


@pytest.mark.parametrize(("channels", "modes"), [(1, ("L", "RGB", "L")), (4, ("RGB", "RGBA", "RGBA"))])
def test_grey_and_transparent_pictures(engine: Folder, channels: int, modes: tuple[str, ...]) -> None:
    for format_name, mode in zip(("jpeg", "webp", "png"), modes, strict=True):
        [name] = save(pictures(channels=channels), format_name)
        with Image.open(engine.folder / name) as picture:
            assert (picture.mode, picture.size) == (mode, (56, 40))


def of_ours(data: bytes) -> dict[str, Any]:
    """What a JPEG holds beside its EXIF, in segments of our own."""
    texts, at = b"", 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        texts += body[5:] if data[at + 1] == 0xEF and body.startswith(b"RYLA\0") else b""
        at += 2 + length
    found = (text.partition(":") for text in texts.decode().split("\0") if text)
    return {name: json.loads(value) for name, _, value in found}


def test_a_workflow_too_long_for_a_jpegs_exif_is_in_further_segments(engine: Folder) -> None:
    large = {"prompt": PROMPT, "workflow": {"text": "x" * 170_000}, "note": {"text": "y" * 70_000}}
    data = image_file.encode(image_file.to_pillow(pictures()[0]), "jpeg", 92, large)
    (engine.folder / "a.jpg").write_bytes(data)
    assert texts(engine.folder / "a.jpg") == {"prompt": PROMPT}
    assert of_ours(data) == {name: large[name] for name in ("workflow", "note")}
    with Image.open(engine.folder / "a.jpg") as picture:
        picture.load()
    (engine.folder / "a.webp").write_bytes(image_file.encode(image_file.to_pillow(pictures()[0]), "webp", 92, large))
    assert texts(engine.folder / "a.webp") == large


def test_a_workflow_that_fits_is_in_the_exif_and_one_byte_more_is_not() -> None:
    picture = image_file.to_pillow(pictures()[0])
    further = []
    for length in range(65_380, 65_560):
        data = image_file.encode(picture, "jpeg", 92, {"prompt": "x" * length})
        assert data.count(b"x" * length) == 1 or of_ours(data) == {"prompt": "x" * length}
        further.append(bool(of_ours(data)))
    assert further[-1] and not further[0] and further == sorted(further)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(RylaError, match="No space left") as caught:
        image_file.write(tmp_path / "a.jpg", b"x" * 100)
    assert caught.value.code == "output_not_written"
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_job_stops_between_pictures(engine: Folder) -> None:
    engine.interrupted = True
    with pytest.raises(InterruptedError):
        save(pictures(3), "jpeg")
    assert list(engine.folder.iterdir()) == []
