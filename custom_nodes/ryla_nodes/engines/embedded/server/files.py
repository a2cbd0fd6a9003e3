"""Routes of files: /view, /upload/image, /upload/mask."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import mimetypes
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from ....errors import RylaError
from ....files import write_whole
from ..execution.calls import shown
from ..files import KINDS, EngineFiles, opened_picture
from .messages import Form, Refused, bad_request, form, json_answer, parse_json

T = TypeVar("T")

log = logging.getLogger(__name__)

LONGEST_UPLOAD_NAME = 200
"""In bytes; the names of files that are made beside it are a little longer."""

# What a browser would run or render as a page of this server.
_ACTIVE = ("html", "javascript", "ecmascript", "css", "xml", "rfc822")


class FileRoutes:
    """Pictures in and out of the engine's folders."""

    def __init__(self, files: EngineFiles) -> None:
        self._files = files
        self._uploading = threading.Lock()
        self._one_picture = asyncio.Semaphore(1)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/view", self.view),
            web.post("/upload/image", self.upload_image),
            web.post("/upload/mask", self.upload_mask),
        ]

    async def view(self, request: web.Request) -> web.StreamResponse:
        """A file of the engine: as it is, as a preview (``preview=jpeg;90``) or as one channel of it."""
        query = request.query
        name = query.get("filename", "")
        path = self._viewed(name, query.get("type", "output"), query.get("subfolder", ""))
        headers = {"Content-Disposition": f'filename="{_quoted(path.name)}"', "X-Content-Type-Options": "nosniff"}
        channel = query.get("channel", "rgba")
        if "preview" in query:
            kind, quality = _preview_format(query["preview"], channel)
            body = await self._decoding(_encoded, path, kind, quality, channel)
            return web.Response(body=body, content_type=f"image/{kind}", headers=headers)
        if channel in ("rgb", "a"):
            body = await self._decoding(_encoded, path, "png", 0, channel)
            return web.Response(body=body, content_type="image/png", headers=headers)
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if content_type.endswith(_ACTIVE):
            content_type = "application/octet-stream"
            headers["Content-Disposition"] = f"attachment; {headers['Content-Disposition']}"
        return _File(path, headers=headers | {"Content-Type": content_type})

    async def _decoding(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something with a picture in a thread; one at a time, since it can be large."""
        async with self._one_picture:
            return await asyncio.to_thread(work, *arguments)

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
        return await asyncio.to_thread(self._upload, await form(request, "image"))

    async def upload_mask(self, request: web.Request) -> web.Response:
        """As ``upload_image``, but what is stored is the picture ``original_ref`` with the mask's alpha."""
        post = await form(request, "image")
        original = self._original(post.texts.get("original_ref", ""))
        masked = await self._decoding(_with_alpha, original, post.content)
        return await asyncio.to_thread(self._upload, replace(post, content=masked))

    def _original(self, reference: str) -> Path:
        named = parse_json(reference)
        if not isinstance(named, dict):
            named = {}
        filename, kind, subfolder = named.get("filename"), named.get("type", "output"), named.get("subfolder", "")
        if not isinstance(filename, str) or not isinstance(kind, str) or not isinstance(subfolder, str):
            raise bad_request("invalid_upload", "original_ref must be JSON with a filename.")
        return self._viewed(filename, kind, subfolder)

    def _upload(self, post: Form) -> web.Response:
        subfolder, kind, name = post.texts.get("subfolder", ""), post.texts.get("type", "input"), post.filename
        if kind not in KINDS or Path(name).name != name or len(name.encode("utf-8", "replace")) > LONGEST_UPLOAD_NAME:
            where = f"{shown(kind)}/{shown(subfolder)}/{shown(name)}"
            raise bad_request("invalid_upload", f"{where} is no place for a file.")
        with self._uploading:
            try:
                path = self._files.inside(kind, subfolder, name)
                if path.is_dir():
                    raise bad_request("invalid_upload", f"{shown(name)} is a folder.")
                if post.texts.get("overwrite") not in ("true", "1"):
                    path = _free_name(path, post.content)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, post.content)
            except RylaError as error:
                raise bad_request("invalid_upload", error.message) from None
            except OSError as error:
                raise _not_stored(name, error) from error
        return json_answer({"name": path.name, "subfolder": subfolder, "type": kind})


class _File(web.FileResponse):
    """A file as an answer that may be prepared twice, as every other answer may."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None if self.prepared else await super().prepare(request)


def _not_stored(name: str, error: OSError) -> Refused:
    """What to tell when the file system does not take an upload."""
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
        return bad_request("invalid_upload", f"{name} cannot be stored there: {error.strerror}.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(507, "disk_full", "The engine's disk is full.")
    log.error("An upload could not be stored.", exc_info=error)
    return Refused(503, "not_writable", "The engine cannot write to its folder.")


def _free_name(path: Path, data: bytes) -> Path:
    """``path``, or ``name (1).png`` and so on: the first that is free or holds the same bytes."""
    candidate, number = path, 0
    while candidate.exists() and not _holds(candidate, data):
        number += 1
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return candidate


def _holds(path: Path, data: bytes) -> bool:
    return path.stat().st_size == len(data) and path.read_bytes() == data


def _quoted(name: str) -> str:
    """A file's name as it can stand between quotes in a header."""
    text = "".join(letter if letter.isprintable() else "_" for letter in name)
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _preview_format(wanted: str, channel: str) -> tuple[str, int]:
    """``jpeg;80`` -> ("jpeg", 80). WebP for what has alpha or is unknown; quality 90 when none is given."""
    kind, *rest = wanted.split(";")
    quality = int(rest[-1]) if rest and re.fullmatch(r"[0-9]{1,3}", rest[-1]) else 90
    return (kind if kind in ("webp", "jpeg") and "a" not in channel.replace("rgba", "") else "webp"), min(quality, 100)


def _encoded(path: Path, kind: str, quality: int, channel: str) -> bytes:
    """A picture, or one channel of it, encoded anew."""
    from PIL import Image

    buffer = io.BytesIO()
    with opened_picture(path, path.name) as opened:
        picture: Image.Image = opened
        if channel == "a":
            picture = Image.new("RGBA", opened.size)
            picture.putalpha(opened.getchannel("A") if "A" in opened.getbands() else 255)
        elif kind == "jpeg" or channel == "rgb":
            picture = opened.convert("RGB")
        picture.save(buffer, kind, **({} if kind == "png" else {"quality": quality}))
    return buffer.getvalue()


def _with_alpha(original: Path, mask: bytes) -> bytes:
    """``original`` as PNG, its text chunks kept, with the alpha channel of the picture ``mask``."""
    from PIL.PngImagePlugin import PngInfo

    buffer = io.BytesIO()
    with opened_picture(original, original.name) as picture, opened_picture(io.BytesIO(mask), "The mask") as shape:
        if shape.size != picture.size:
            sizes = [f"{width} x {height}" for width, height in (shape.size, picture.size)]
            raise RylaError("unreadable_image", f"The mask has {sizes[0]} pixels and its picture {sizes[1]}.")
        metadata = PngInfo()
        for key, value in getattr(picture, "text", {}).items():
            metadata.add_text(key, value)
        merged = picture.convert("RGBA")
        merged.putalpha(shape.convert("RGBA").getchannel("A"))
        merged.save(buffer, "PNG", pnginfo=metadata, compress_level=4)
    return buffer.getvalue()
