"""Routes of files: /view, /upload/image, /upload/mask."""

from __future__ import annotations

import asyncio
import io
import json
import mimetypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from multidict import MultiDictProxy

from ....errors import RylaError
from ....files import write_whole
from ..files import KINDS, EngineFiles
from .guard import bad_request

Post = MultiDictProxy[str | bytes | bytearray | web.FileField]

# What a browser would run or render as a page of this server.
_ACTIVE = ("html", "javascript", "ecmascript", "css", "xml", "rfc822")


class FileRoutes:
    """Pictures in and out of the engine's folders."""

    def __init__(self, files: EngineFiles) -> None:
        self._files = files
        self._uploading = threading.Lock()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/view", self.view),
            web.post("/upload/image", self.upload_image),
            web.post("/upload/mask", self.upload_mask),
        ]

    async def view(self, request: web.Request) -> web.StreamResponse:
        """A file of the engine: as it is, as a preview (``preview=jpeg;90``) or as one channel of it."""
        query = request.query
        path = self._viewed(query.get("filename", ""), query.get("type", "output"), query.get("subfolder", ""))
        headers = {"Content-Disposition": f'filename="{_quoted(path.name)}"', "X-Content-Type-Options": "nosniff"}
        channel = query.get("channel", "rgba")
        if "preview" in query:
            kind, quality = _preview_format(query["preview"], channel)
            body = await asyncio.to_thread(_encoded, path, kind, quality, channel)
            return web.Response(body=body, content_type=f"image/{kind}", headers=headers)
        if channel in ("rgb", "a"):
            body = await asyncio.to_thread(_encoded, path, "png", 0, channel)
            return web.Response(body=body, content_type="image/png", headers=headers)
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if content_type.endswith(_ACTIVE):
            content_type = "application/octet-stream"
            headers["Content-Disposition"] = f"attachment; {headers['Content-Disposition']}"
        return web.FileResponse(path, headers=headers | {"Content-Type": content_type})

    def _viewed(self, filename: str, kind: str, subfolder: str) -> Path:
        if not filename:
            raise web.HTTPNotFound
        if kind not in KINDS or filename.startswith("/") or ".." in filename:
            raise web.HTTPBadRequest
        path = self._files.resolve(filename, kind, subfolder)
        if not path.is_file():
            raise web.HTTPNotFound
        return path

    async def upload_image(self, request: web.Request) -> web.Response:
        """Store the multipart field ``image`` in the folder ``type`` (input), sub-folder ``subfolder``."""
        return await asyncio.to_thread(self._upload, await _form(request), lambda data: data)

    async def upload_mask(self, request: web.Request) -> web.Response:
        """As ``upload_image``, but what is stored is the picture ``original_ref`` with the mask's alpha."""
        post = await _form(request)
        original = self._original(post.get("original_ref"))
        return await asyncio.to_thread(self._upload, post, lambda data: _with_alpha(original, data))

    def _original(self, reference: object) -> Path:
        try:
            named: Any = json.loads(reference if isinstance(reference, str) else "")
            filename, subfolder = named["filename"], named.get("subfolder", "")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise bad_request("invalid_upload", "original_ref must be JSON with a filename.") from None
        return self._viewed(filename, named.get("type", "output"), subfolder)

    def _upload(self, post: Post, convert: Callable[[bytes], bytes]) -> web.Response:
        image = post.get("image")
        if not isinstance(image, web.FileField) or not image.filename:
            raise bad_request("invalid_upload", "The form needs a file in its field image.")
        subfolder, kind = str(post.get("subfolder", "")), str(post.get("type", "input"))
        if kind not in KINDS or Path(image.filename).name != image.filename:
            raise bad_request("invalid_upload", f"{kind}/{subfolder}/{image.filename} is no place for a file.")
        data = convert(image.file.read())
        with self._uploading:
            try:
                path = self._files.inside(kind, subfolder, image.filename)
            except RylaError as error:
                raise bad_request("invalid_upload", error.message) from None
            if post.get("overwrite") not in ("true", "1"):
                path = _free_name(path, data)
            _write(path, data)
        return web.json_response({"name": path.name, "subfolder": subfolder, "type": kind})


async def _form(request: web.Request) -> Post:
    try:
        return await request.post()
    except ValueError as error:
        raise bad_request("invalid_upload", f"The body is not a form: {error}") from None


def _free_name(path: Path, data: bytes) -> Path:
    """``path``, or ``name (1).png`` and so on: the first that is free or holds the same bytes."""
    candidate, number = path, 0
    while candidate.exists() and candidate.read_bytes() != data:
        number += 1
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return candidate


def _write(path: Path, data: bytes) -> None:
    """Write ``path`` at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _preview_format(wanted: str, channel: str) -> tuple[str, int]:
    """``jpeg;80`` -> ("jpeg", 80). WebP for what has alpha or is unknown; quality 90 when none is given."""
    kind, *rest = wanted.split(";")
    quality = int(rest[-1]) if rest and rest[-1].isdecimal() else 90
    return (kind if kind in ("webp", "jpeg") and "a" not in channel.replace("rgba", "") else "webp"), min(quality, 100)


def _encoded(path: Path, kind: str, quality: int, channel: str) -> bytes:
    """A picture, or one channel of it, encoded anew."""
    from PIL import Image

    with Image.open(path) as opened:
        picture: Image.Image = opened
        if channel == "a":
            picture = Image.new("RGBA", opened.size)
            picture.putalpha(opened.getchannel("A") if "A" in opened.getbands() else 255)
        elif kind == "jpeg" or channel == "rgb":
            picture = opened.convert("RGB")
        buffer = io.BytesIO()
        picture.save(buffer, kind, **({} if kind == "png" else {"quality": quality}))
    return buffer.getvalue()


def _with_alpha(original: Path, mask: bytes) -> bytes:
    """``original`` as PNG, its text chunks kept, with the alpha channel of the picture ``mask``."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(original) as picture, Image.open(io.BytesIO(mask)) as shape:
        metadata = PngInfo()
        for key, value in getattr(picture, "text", {}).items():
            metadata.add_text(key, value)
        merged = picture.convert("RGBA")
        merged.putalpha(shape.convert("RGBA").getchannel("A"))
        buffer = io.BytesIO()
        merged.save(buffer, "PNG", pnginfo=metadata, compress_level=4)
    return buffer.getvalue()
