"""Reading a request: its body within bounds, JSON without surprises, forms, and what the client prefers."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from ..errors import RylaError
from .options import Limits

PICTURES = {"image/jpeg": "jpeg", "image/webp": "webp", "image/png": "png"}
JSON = "application/json"

_MOST_FIELDS = 200
_IN_THREAD = 256 * 1024
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Fields = dict[str, Any]
"""Field name -> value as JSON gave it, or the bytes of a file of a form."""


@dataclass(frozen=True)
class Wishes:
    """What the headers ask for.

    Attributes:
        respond_async: answer 202 at once; with ``wait``, after that many seconds without an end.
        keep: the job goes on when the client goes away.
        key: the Idempotency-Key; "" without one.
        webhook: where to post the end of the job; "" for nowhere.
    """

    respond_async: bool
    wait: float | None
    keep: bool
    key: str
    webhook: str


def wishes(request: Request) -> Wishes:
    """Read ``Prefer`` (RFC 7240), ``Idempotency-Key`` and ``Webhook-URL``.

    Raises:
        RylaError: ``invalid_request``.
    """
    preferences = _preferences(",".join(request.headers.getlist("prefer")))
    key = request.headers.get("idempotency-key", "").strip()
    if key and not _KEY.fullmatch(key):
        raise RylaError("invalid_request", "Idempotency-Key is 1 to 255 printable ASCII characters without spaces.")
    wait = _seconds(preferences["wait"]) if "wait" in preferences else None
    respond_async = "respond-async" in preferences
    webhook = request.headers.get("webhook-url", "").strip()
    # Who may ask again, or is told later, wants the job to go on without a connection.
    keep = bool(key or webhook or respond_async) or "keep" in preferences
    return Wishes(respond_async, wait, keep, key, webhook)


def _preferences(header: str) -> dict[str, str]:
    parts = [part.strip() for part in re.split(r"[,;]", header) if part.strip()]
    pairs = (part.partition("=") for part in parts)
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}", text):
        raise RylaError("invalid_request", "Prefer: wait takes a whole number of seconds.")
    return float(text)


def accepted(header: str, offered: tuple[str, ...]) -> str:
    """The one of ``offered`` (in our order of preference) that an ``Accept`` header likes best.

    Raises:
        RylaError: ``not_acceptable``.
    """
    ranges = [_range(part) for part in header.split(",") if part.strip()] or [("*/*", 1.0)]
    best = max(offered, key=lambda kind: _quality(kind, ranges))
    if _quality(best, ranges)[0] <= 0:
        raise RylaError("not_acceptable", f"This answer is {' or '.join(offered)}; none of them is accepted.")
    return best


def _range(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weight = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
    return kind, float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 0.0


def _quality(kind: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """How much a type is wanted, and how exactly it was named."""
    family = f"{kind.split('/')[0]}/*"
    for exactness, name in ((2, kind), (1, family), (0, "*/*")):
        found = [weight for each, weight in ranges if each == name]
        if found:
            return max(found), exactness
    return 0.0, 0


# --- the body ---------------------------------------------------------------------------------------------------------


async def fields(request: Request, limits: Limits) -> Fields:
    """The fields of a JSON object or of a form.

    Raises:
        RylaError: ``body_too_large``, ``body_timeout``, ``unsupported_media_type``, ``invalid_request``.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    bounded = _bounded(request, limits.body_bytes)
    if kind == JSON or kind.endswith("+json"):
        body: bytes = await _in_time(bounded.body(), limits)
        return await asyncio.to_thread(decoded, body) if len(body) > _IN_THREAD else decoded(body)
    if kind == "multipart/form-data":
        found: Fields = await _in_time(_form(bounded, limits), limits)
        return found
    shown = kind if re.fullmatch(r"[\w.+-]{1,60}/[\w.+-]{1,60}", kind) else "without a usable type"
    raise RylaError("unsupported_media_type", f"The body is {shown}.")


def _bounded(request: Request, most: int) -> Request:
    """The same request; reading more than ``most`` bytes of its body fails."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:18]) > most:
        _too_large(most)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            _too_large(most)
        return message

    return Request(request.scope, receive)


def _too_large(most: int) -> NoReturn:
    raise RylaError("body_too_large", f"A request's body may have {most / 2**20:.0f} MiB.")


async def _in_time(work: Any, limits: Limits) -> Any:
    try:
        return await asyncio.wait_for(work, limits.body_seconds)
    except asyncio.TimeoutError:
        raise RylaError("body_timeout", f"The body did not arrive within {limits.body_seconds:.0f} s.") from None
    except ClientDisconnect:
        raise RylaError("invalid_request", "The client went away before its request was complete.") from None


def decoded(body: bytes) -> Fields:
    """A JSON object; refused are repeated names, NaN and infinities, and numbers beyond any use.

    Raises:
        RylaError: ``invalid_request``.
    """
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise RylaError("invalid_request", "The JSON is nested too deeply.") from None
    except UnicodeDecodeError:
        raise RylaError("invalid_request", "The body is not UTF-8.") from None
    except ValueError as error:
        raise RylaError("invalid_request", f"The body is not JSON: {str(error)[:200]}.") from None
    if not isinstance(value, dict):
        raise RylaError("invalid_request", "The body has to be a JSON object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} is there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond any number in use")
    return number


async def _form(request: Request, limits: Limits) -> Fields:
    found: Fields = {}
    try:
        # An image may also come as base64, in a field without a file name.
        async with request.form(
            max_files=_MOST_FIELDS, max_fields=_MOST_FIELDS, max_part_size=limits.image_bytes * 2
        ) as form:
            for name, value in form.multi_items():
                if name in found:
                    raise RylaError("invalid_request", f"The field {name[:80]!r} is there twice.")
                found[name] = await value.read() if isinstance(value, UploadFile) else value
    except (MultiPartException, HTTPException) as error:
        told = getattr(error, "message", None) or getattr(error, "detail", "")
        raise RylaError("invalid_request", f"The form is malformed: {str(told)[:200]}") from None
    return found
