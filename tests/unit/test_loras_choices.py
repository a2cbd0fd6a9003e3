"""The LoRAs to choose from: one row a file, its details, and sample pictures that lie beside it and nowhere else."""

from __future__ import annotations

import io
from pathlib import Path

import lora_files
import pytest
from PIL import Image
from ryla_nodes.loras import choices
from ryla_nodes.loras.store import LoraStore


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    folder = tmp_path / "loras"
    lora_files.write(folder / "character-7.safetensors", lora_files.kohya(lora_files.flux()), lora_files.KOHYA_FLUX)
    lora_files.small(folder / "sub" / "anna.safetensors", "anna")
    return folder


def picture(path: Path, size: tuple[int, int] = (600, 400)) -> Path:
    Image.new("RGB", size, (200, 30, 30)).save(path)
    return path


def test_every_file_has_a_row_with_the_id_that_finds_it(loras: Path, tmp_path: Path) -> None:
    for name in ("character-7", "character-8", "8"):
        lora_files.small(tmp_path / "more" / f"{name}.safetensors")
    store = LoraStore([loras, tmp_path / "more"])
    rows = choices.every(store)
    # Both files of 8 by their names; of the two called character-7 the first folder's.
    assert sorted(row["id"] for row in rows) == ["7", "8.safetensors", "character-8.safetensors", "sub/anna"]
    for row in rows:
        assert store.find(row["id"]).name == row["file"]


def test_details_tell_trigger_family_and_what_is_wrong(loras: Path) -> None:
    (loras / "broken.safetensors").write_bytes(b"junk")
    found = choices.details(LoraStore([loras]), ["7", "sub/anna", "broken", "gone", "../7"])
    assert (found["7"]["title"], found["7"]["trigger"], found["7"]["picture"]) == ("FLUX.1", "ohwx woman", "")
    assert "flux" in found["sub/anna"]["families"] and found["sub/anna"]["trigger"] == "anna"
    assert "not a safetensors file" in found["broken"]["error"]
    assert found["gone"]["error"] == found["../7"]["error"] == "There is no file of this id (any more)."


def test_nothing_is_fetched_for_an_id_that_is_asked_about(loras: Path) -> None:
    def refresh() -> None:
        raise AssertionError("the volume was refreshed")

    store = LoraStore([loras], refresh)
    assert "error" in choices.details(store, ["gone"])["gone"]
    assert choices.thumbnail(store, "gone") is None


@pytest.mark.parametrize("ending", [".preview.png", ".png", ".jpg", ".webp"])
def test_a_picture_beside_the_file_is_shown_small(loras: Path, ending: str) -> None:
    picture(loras / f"character-7{ending}")
    store = LoraStore([loras])
    assert choices.details(store, ["7"])["7"]["picture"]
    data = choices.thumbnail(store, "7")
    assert data is not None
    with Image.open(io.BytesIO(data)) as small:
        assert (small.format, max(small.size)) == ("WEBP", choices.THUMBNAIL)


def test_no_other_file_is_given_out(loras: Path, tmp_path: Path) -> None:
    store = LoraStore([loras])
    secret = picture(tmp_path / "secret.png")
    (loras / "character-7.png").symlink_to(secret)
    assert choices.thumbnail(store, "7") is None, "a link that leads out"
    (loras / "character-7.png").unlink()
    (loras / "character-7.png").write_bytes((loras / "character-7.safetensors").read_bytes())
    assert choices.thumbnail(store, "7") is None, "no picture"
    for wrong in ("../secret", "/etc/passwd", str(secret), "sub/../../secret", "", "7\0", "."):
        assert choices.thumbnail(store, wrong) is None
