"""Who may use the gateway: tokens, and which names and web pages a request may come by."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import RylaError
from ..settings import Settings
from .options import Options, Token
from .pages import FOLDER, PAGES
from .problems import described, problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPEN = (*PAGES, "/health", "/ready", "/favicon.ico")
"""What needs no token: pages without secrets, whose files neither do, and the probes."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[\w.-]{1,64}")


def tokens_of(settings: Settings) -> tuple[Token, ...]:
    """The tokens of ``RYLA_TOKEN`` and of the file ``RYLA_TOKENS_FILE``.

    The file has a table for each: ``[anna]``, ``sha256 = "..."``, and ``concurrency = 4`` when it is limited.

    Raises:
        RylaError: ``invalid_tokens_file``.
    """
    own = (Token("default", digest(settings.token)),) if settings.token else ()
    return own + (_read(settings.tokens_file) if settings.tokens_file else ())


def digest(secret: str) -> str:
    """The SHA-256 of a secret in hex: what the file of tokens holds."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(path: Path) -> tuple[Token, ...]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RylaError("invalid_tokens_file", f"{path} cannot be read: {error}.") from error
    return tuple(_token(path, name, table) for name, table in tables.items())


def _token(path: Path, name: str, table: Any) -> Token:
    known = isinstance(table, dict) and set(table) <= {"sha256", "concurrency"}
    sha256, concurrency = (table.get("sha256"), table.get("concurrency")) if known else (None, None)
    if not _NAME.fullmatch(name) or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise RylaError("invalid_tokens_file", f"{path}: [{name}] needs sha256, the hex digest of a token.")
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise RylaError("invalid_tokens_file", f"{path}: [{name}] concurrency is a whole number from 1 on.")
    return Token(name, sha256, concurrency)


class Guard:
    """ASGI middleware: refuses what may not come in, and notes the token in ``scope["state"]["token"]``."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self._app, self._options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["token"] = self._admitted(scope)
        except RylaError as error:
            challenge = {"WWW-Authenticate": "Bearer"} if error.code == "unauthorized" else {}
            await problem(described(error), headers=challenge)(scope, receive, _hardened(send))
            return
        await self._app(scope, receive, _hardened(send))

    def _admitted(self, scope: Scope) -> Token | None:
        headers = Headers(scope=scope)
        self._check_host(headers.get("host", ""))
        is_open = scope["path"] in OPEN or scope["path"].startswith(FOLDER)
        if not (scope["path"] in PAGES and _is_visit(scope["method"], headers)):
            self._check_origin(headers)
        token = self._token(headers.get("authorization", ""))
        if token is None and self._options.tokens and not is_open and scope["method"] != "OPTIONS":
            raise RylaError("unauthorized", "The request bears no valid token.")
        return token

    def _token(self, authorization: str) -> Token | None:
        scheme, _, secret = authorization.partition(" ")
        given = digest(secret.strip())
        found = None
        # Every token is compared, so that the time tells nothing of which one fits.
        for token in self._options.tokens:
            if hmac.compare_digest(token.sha256, given) and scheme.lower() == "bearer":
                found = token
        return found

    def _check_host(self, host: str) -> None:
        """Refuse a name that leads here by a stranger's DNS: a page of his would be of our origin then."""
        name = _hostname(f"//{host}")
        allowed = self._options.host_names
        if name in allowed or (not allowed and not self._options.loopback) or _is_loopback(name):
            return
        raise RylaError("forbidden_origin", "The gateway is not addressed by this name.")

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._options.origins:
            if headers.get("sec-fetch-site") == "cross-site" and origin is None:
                raise RylaError("forbidden_origin", "Pages of other sites may not use the gateway.")
            return
        if not origin.lower().endswith(f"://{headers.get('host', '').lower()}"):
            raise RylaError("forbidden_origin", "Pages of this origin may not use the gateway.")


def _is_visit(method: str, headers: Headers) -> bool:
    """Whether somebody opens a page in a window of its own: a link on another site may lead to it."""
    return (
        method == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
        and "origin" not in headers
    )


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _hardened(send: Send) -> Send:
    """Answers are what they say they are, in no frame, and tell nobody where a visitor came from."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("X-Frame-Options", "DENY")
            headers.setdefault("Referrer-Policy", "no-referrer")
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
