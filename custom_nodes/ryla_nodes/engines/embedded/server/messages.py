"""Bodies in and answers out: JSON and forms within their limits, and refusals in ComfyUI's error shape."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from .connections import Connections

T = TypeVar("T")

MAX_UPLOAD_BYTES = 100 << 20
MAX_JSON_BYTES = 16 << 20
MAX_HELD_BYTES = 256 << 20
"""Of all bodies that are held at one time."""
MAX_DEPTH = 100
"""Of lists and objects in each other in JSON: what is read has to be written again, deeper inside of an answer."""
MAX_FIELDS = 16
MAX_FIELD_BYTES = 64 << 10
CHUNK_BYTES = 256 << 10
BODY_SECONDS = 20.0
SLOWEST_BYTES_A_SECOND = 10_000


class Refused(Exception):
    """A request that gets an answer of ComfyUI's error shape instead of what it asked for."""

    def __init__(self, status: int, kind: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.details = details or message

    def answer(self) -> web.Response:
        """What the client gets."""
        error = {"type": self.kind, "message": self.message, "details": self.details, "extra_info": {}}
        headers = {"WWW-Authenticate": 'Bearer realm="ryla engine"'} if self.status == 401 else {}
        if self.status in (429, 503):
            headers["Retry-After"] = "1"
        return json_answer({"error": error, "node_errors": {}}, self.status, headers)


def bad_request(kind: str, message: str, details: str = "") -> Refused:
    """The answer to a request that is malformed."""
    return Refused(400, kind, message, details)


def json_answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """``data`` as JSON proper: no NaN, no infinity."""
    text = json.dumps(data, allow_nan=False)
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


class Bodies:
    """How many bytes of bodies the engine holds now: of each request, and together."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.together = 0
        self._of_request: dict[int, int] = {}

    def hold(self, request: web.Request, more: int) -> None:
        """Count bytes that came until ``release``."""
        self.together += more
        self._of_request[id(request)] = self.size_of(request) + more

    def size_of(self, request: web.Request) -> int:
        """The number of bytes of a request's body that were read."""
        return self._of_request.get(id(request), 0)

    def release(self, request: web.Request) -> None:
        """The request has its answer: what was held for it is no longer."""
        self.together -= self._of_request.pop(id(request), 0)


BODIES = web.AppKey("bodies", Bodies)


class Meter:
    """How much of a request's body has come, and whether it comes fast enough."""

    def __init__(self, request: web.Request, limit: int) -> None:
        self._bodies = request.app[BODIES]
        self._request = request
        self._limit = limit
        self._count = 0
        self._started = time.monotonic()
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refused(415, "compressed_body", "The engine takes no compressed bodies: send it without encoding.")
        if (request.content_length or 0) > limit:
            raise self._too_large()

    async def received(self, coming: Awaitable[T]) -> T:
        """What comes next, in the time that the slowest sender that is waited for would need.

        Raises:
            Refused: it comes too slowly, or is damaged.
        """
        left = self._started + BODY_SECONDS + self._count / SLOWEST_BYTES_A_SECOND - time.monotonic()
        self._bodies.connections.waits(self._request.transport, left + 1)
        try:
            return await asyncio.wait_for(coming, max(left, 0.001))
        except asyncio.TimeoutError:
            raise Refused(408, "body_too_slow", "The body of the request did not come in time.") from None
        except (web.RequestPayloadError, HttpProcessingError):
            raise bad_request("invalid_body", "The body of the request is damaged.") from None
        finally:
            self._bodies.connections.works(self._request.transport)

    def count(self, more: int) -> None:
        """Count bytes that came.

        Raises:
            Refused: they are more than the limit, or all that is held together is too much.
        """
        self._count += more
        self._bodies.hold(self._request, more)
        if self._count > self._limit:
            raise self._too_large()
        if self._bodies.together > MAX_HELD_BYTES:
            raise Refused(503, "engine_busy", "The engine holds too many large requests now.")

    def _too_large(self) -> Refused:
        return Refused(413, "body_too_large", f"The body has more than {self._limit >> 20} MiB.")


async def json_object(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """The request's body, which must be a JSON object (or empty, if ``optional``).

    Raises:
        Refused: it is not, or not within the limits.
    """
    meter = Meter(request, MAX_JSON_BYTES)
    parts = []
    while part := await meter.received(request.content.readany()):
        meter.count(len(part))
        parts.append(part)
    data = b"".join(parts)
    if optional and not data.strip():
        return {}
    body = parse_json(data)
    if not isinstance(body, dict):
        raise bad_request("invalid_json", "The body must be a JSON object.")
    return body


def parse_json(data: bytes | str) -> Any:
    """JSON proper, nested at most ``MAX_DEPTH`` deep, without NaN and numbers too large for a float.

    Raises:
        Refused: it is something else.
    """
    try:
        value = json.loads(data, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise bad_request("invalid_json", f"The body is not JSON: {error}") from None
    if _is_deep(value):
        raise _too_deep()
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return bool(level)


def _too_deep() -> Refused:
    return bad_request("invalid_json", f"The body nests lists and objects more than {MAX_DEPTH} deep.")


def _not_finite(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


@dataclass
class Form:
    """A multipart form: its texts by name, and its one file."""

    texts: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    content: bytes = b""


async def form(request: web.Request, file_field: str) -> Form:
    """The request's body as a form with a file in ``file_field``.

    Raises:
        Refused: it is none, or not within the limits.
    """
    meter = Meter(request, MAX_UPLOAD_BYTES)
    found = Form()
    try:
        reader = MultipartReader(request.headers, request.content)
        for _ in range(MAX_FIELDS):
            part = await meter.received(reader.next())
            if part is None:
                break
            if not isinstance(part, BodyPartReader) or "Content-Encoding" in part.headers:
                raise bad_request("invalid_upload", "A field of the form is a form itself, or compressed.")
            await _take(part, meter, found, file_field)
        else:
            raise bad_request("invalid_upload", f"The form has more than {MAX_FIELDS} fields.")
    except (ValueError, RuntimeError, LookupError, AssertionError) as error:
        raise bad_request("invalid_upload", f"The body is not a form: {error}") from None
    if not found.filename:
        raise bad_request("invalid_upload", f"The form needs a file in its field {file_field}.")
    return found


async def _take(part: BodyPartReader, meter: Meter, found: Form, file_field: str) -> None:
    """Read one field of a form."""
    encoding = part.headers.get("Content-Transfer-Encoding", "binary").lower()
    if encoding not in ("binary", "8bit", "7bit"):
        raise bad_request("invalid_upload", "A field of the form is encoded: send it in binary.")
    chunks = []
    size = 0
    while chunk := await meter.received(part.read_chunk(CHUNK_BYTES)):
        meter.count(len(chunk))
        chunks.append(chunk)
        size += len(chunk)
        if part.filename is None and size > MAX_FIELD_BYTES:
            raise bad_request("invalid_upload", f"A text of the form has more than {MAX_FIELD_BYTES >> 10} KiB.")
    content = b"".join(chunks)
    if part.filename is None:
        found.texts[part.name or ""] = content.decode()
    elif part.name == file_field:
        found.filename, found.content = part.filename, content
