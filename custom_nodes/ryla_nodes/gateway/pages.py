"""The page at ``/``, that of ``/docs``, and their files: served from the package, speaking to this gateway alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from ..errors import RylaError

PAGES = {"/": "index.html", "/docs": "docs.html"}
"""Address -> its file."""

FOLDER = "/page/"

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Pictures come as blobs, since an <img> sends no token; a preview is a data URL.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")


@dataclass(frozen=True)
class _File:
    data: bytes
    headers: dict[str, str]


class Pages:
    """The files of the pages, read once; nothing outside their folder can be named."""

    def __init__(self) -> None:
        own = [each for each in files(__package__).joinpath("page").iterdir() if _kind(each.name) in _TYPES]
        swagger = [files("fastapi_offline").joinpath("static").joinpath(name) for name in _SWAGGER]
        self._files = {each.name: _file(each.name, each.read_bytes()) for each in (*own, *swagger)}

    def mount(self, router: APIRouter) -> None:
        """Add the routes."""
        for path in PAGES:
            router.add_api_route(path, self.page, methods=["GET"], include_in_schema=False, response_model=None)
        path = FOLDER + "{name:path}"
        router.add_api_route(path, self.file, methods=["GET"], include_in_schema=False, response_model=None)

    async def page(self, request: Request) -> Response:
        """One of ``PAGES``."""
        return self._answer(request, PAGES[request.scope["path"]])

    async def file(self, request: Request, name: str) -> Response:
        """A file that a page needs."""
        if name not in self._files:
            raise RylaError("no_such_route", f"The page has no file {name[:80]!r}.")
        return self._answer(request, name)

    def _answer(self, request: Request, name: str) -> Response:
        """The file, or 304 when the browser has it: it is asked about each time, so that an update shows at once."""
        file = self._files[name]
        known = request.headers.get("if-none-match", "")
        if file.headers["ETag"] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=file.headers)
        return Response(file.data, headers=file.headers)


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _file(name: str, data: bytes) -> _File:
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _POLICY,
        "Content-Type": _TYPES[_kind(name)],
        "Cross-Origin-Opener-Policy": "same-origin",
        "ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"',
    }
    return _File(data, headers)
