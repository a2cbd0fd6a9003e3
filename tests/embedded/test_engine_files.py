"""Files in and out of the embedded engine: uploads, views, and nothing outside of its folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded.engine_client import Engine, node, picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from ryla_nodes.engines.embedded.files import EngineFiles
from ryla_nodes.errors import RylaError


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("home")) as started:
        yield started


def png(color: tuple[int, ...] = (10, 20, 30), size: tuple[int, int] = (8, 6), mode: str = "RGB") -> bytes:
    buffer = BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG")
    return buffer.getvalue()


def upload(engine: Engine, data: bytes, name: str = "photo.png", **fields: str) -> Any:
    answer = engine.http.post("/upload/image", files={"image": (name, data)}, data=fields)
    return answer.raise_for_status().json()


def test_uploads_keep_their_name_unless_another_file_has_it(engine: Engine) -> None:
    assert upload(engine, png()) == {"name": "photo.png", "subfolder": "", "type": "input"}
    assert upload(engine, png())["name"] == "photo.png"
    assert upload(engine, png((1, 2, 3)))["name"] == "photo (1).png"
    assert upload(engine, png((1, 2, 3)))["name"] == "photo (1).png"
    assert upload(engine, png((4, 5, 6)), overwrite="true")["name"] == "photo.png"
    assert (engine.files.input / "photo.png").read_bytes() == png((4, 5, 6))
    assert upload(engine, png(), subfolder="a/b", type="temp") == {
        "name": "photo.png",
        "subfolder": "a/b",
        "type": "temp",
    }
    assert (engine.files.temp / "a" / "b" / "photo.png").is_file()
    assert not list(engine.files.input.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../photo.png", {}),
        ("photo.png", {"subfolder": "../.."}),
        ("photo.png", {"subfolder": "/etc"}),
        ("photo.png", {"type": "models"}),
        ("", {}),
    ],
)
def test_uploads_stay_in_their_folder(engine: Engine, name: str, fields: dict[str, str]) -> None:
    before = sorted(engine.files.home.parent.rglob("*"))
    assert engine.http.post("/upload/image", files={"image": (name, png())}, data=fields).status_code == 400
    assert sorted(engine.files.home.parent.rglob("*")) == before
    assert engine.http.post("/upload/image", data={"image": "text"}).status_code == 400


def test_an_uploaded_picture_can_be_used_at_once(engine: Engine) -> None:
    name = upload(engine, png((200, 100, 50)), "used.png", subfolder="people")
    graph = {
        "1": node("LoadImage", image=f"{name['subfolder']}/{name['name']}"),
        "2": node("PreviewImage", images=["1", 0]),
    }
    engine.succeed(graph)
    upload(engine, png((200, 100, 50)), "used.png")
    assert "used.png" in engine.get("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"][0]


def test_a_mask_is_joined_with_its_picture(engine: Engine) -> None:
    metadata = PngInfo()
    metadata.add_text("prompt", "{}")
    Image.new("RGB", (8, 6), (9, 8, 7)).save(engine.files.output / "masked.png", pnginfo=metadata)
    answer = engine.http.post(
        "/upload/mask",
        files={"image": ("joined.png", png((0, 0, 0, 77), mode="RGBA"))},
        data={"original_ref": json.dumps({"filename": "masked.png"})},
    )
    assert answer.json()["name"] == "joined.png"
    joined = Image.open(engine.files.input / "joined.png")
    assert joined.getpixel((0, 0)) == (9, 8, 7, 77)
    assert joined.text == {"prompt": "{}"}  # type: ignore[attr-defined]
    for reference in ("", "{}", "[]", '{"filename": "../x.png"}'):
        data = {"original_ref": reference}
        assert engine.http.post("/upload/mask", files={"image": ("x.png", png())}, data=data).status_code == 400


def test_files_are_viewed_as_they_are_or_as_previews(engine: Engine) -> None:
    (engine.files.output / "deep").mkdir(exist_ok=True)
    data = png((200, 100, 50, 128), mode="RGBA")
    (engine.files.output / "deep" / "seen.png").write_bytes(data)

    def view(**query: str) -> Any:
        return engine.http.get("/view", params={"filename": "seen.png", "subfolder": "deep"} | query).raise_for_status()

    assert view().content == data and view().headers["content-type"] == "image/png"
    assert view(type="output").headers["content-disposition"] == 'filename="seen.png"'
    jpeg = view(preview="jpeg;80")
    assert jpeg.headers["content-type"] == "image/jpeg" and Image.open(BytesIO(jpeg.content)).format == "JPEG"
    assert Image.open(BytesIO(view(preview="webp").content)).format == "WEBP"
    assert Image.open(BytesIO(view(preview="strange;x").content)).format == "WEBP"
    assert Image.open(BytesIO(view(channel="rgb").content)).getpixel((0, 0)) == (200, 100, 50)
    assert np.asarray(Image.open(BytesIO(view(channel="a").content)))[0, 0, 3] == 128


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("filename=absent.png", 404),
        ("", 404),
        ("filename=../secret.txt", 400),
        ("filename=/etc/passwd", 400),
        ("filename=x.png&type=models", 400),
        ("filename=secret.txt&subfolder=..", 403),
        ("filename=secret.txt&subfolder=link", 403),
        ("filename=passwd&subfolder=/etc", 403),
        ("filename=x%00.png", 403),
    ],
)
def test_viewing_stays_in_its_folder(engine: Engine, query: str, status: int) -> None:
    (engine.files.home / "secret.txt").write_text("secret")
    link = engine.files.output / "link"
    if not link.exists():
        link.symlink_to(engine.files.home)
    answer = engine.http.get(f"/view?{query}")
    assert answer.status_code == status and "secret" not in answer.text.replace("secret.txt", "")


def test_what_a_browser_would_run_is_downloaded(engine: Engine) -> None:
    (engine.files.output / "page.html").write_text("<script>alert(1)</script>")
    answer = engine.http.get("/view?filename=page.html")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_saving_outside_of_the_output_folder_fails_the_job(engine: Engine) -> None:
    entry = engine.run(picture(color=10, prefix="../../outside"))
    assert entry["status"]["status_str"] == "error" and "outside of the output folder" in json.dumps(entry)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way")
    with pytest.raises(RylaError) as caught:
        EngineFiles(tmp_path / "home").folder("output")
    assert caught.value.code == "unwritable_home" and str(tmp_path / "home") in caught.value.message
