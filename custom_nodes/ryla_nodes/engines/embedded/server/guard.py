"""Who may ask the engine; the way of every request to its handler, and of the answer back."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from ....errors import RylaError
from ...protocol import Engine, running_in
from ..execution.calls import Reporter
from .connections import Connections
from .messages import BODIES, Refused, bad_request, json_answer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BaseHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
ANSWER_SECONDS = 300.0

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def is_loopback(name: str | None) -> bool:
    """Whether a host name or address means this machine only."""
    if not name:
        return False
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback for *_, address in found)


class Access:
    """Who may ask.

    With a token it is who bears it, wherever the request comes from. Without one the engine listens on this machine
    only, and what is kept out are web pages: their browser tells by which name it knows the engine (which a page can
    have resolved to this machine), and the page's origin.

    Args:
        address: the address that the engine listens on.
        allowed: further host names, as a reverse proxy passes them on.
    """

    def __init__(self, address: str, token: str | None = None, allowed: Iterable[str] = ()) -> None:
        self._token = token
        self._allowed = frozenset(map(_allowed_name, allowed))
        listened = f"[{address}]" if ":" in address else address.lower()
        self._hosts = frozenset({*LOOPBACK, listened}) | self._allowed

    def require(self, request: web.Request) -> None:
        """Check that the request may pass.

        Raises:
            Refused: it may not (401, 403).
        """
        if self._token is not None:
            self._require_token(request, self._token)
        elif request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise Refused(403, "origin_not_allowed", "Web pages of other sites may not ask this engine.")
        else:
            self._require_host(request)

    def _require_token(self, request: web.Request, token: str) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        known = hmac.compare_digest(given.strip().encode(), token.encode())
        if scheme.lower() != "bearer" or not known:
            raise Refused(401, "token_required", "This engine needs Authorization: Bearer <RYLA_TOKEN>.")

    def _require_host(self, request: web.Request) -> None:
        hosts, origins = request.headers.getall("Host", []), request.headers.getall("Origin", [])
        if not hosts and not origins:
            return  # No browser asks without naming the host.
        host = _authority(hosts[0]) if len(hosts) == 1 else None
        if host is None or host[0] not in self._hosts:
            told = ascii(hosts[0][:100]) if hosts else "no name"
            answers = ", ".join(sorted(self._hosts))
            message = f"The engine is asked as {told} and answers to {answers}; RYLA_ALLOWED_HOSTS can name more."
            raise Refused(403, "host_not_allowed", message)
        if not all(self._is_ours(origin, host) for origin in origins):
            log.warning("A request of a web page from %s was refused.", ascii(origins[0][:100]))
            raise Refused(403, "origin_not_allowed", "Web pages of other origins may not ask this engine.")

    def _is_ours(self, origin: str, host: tuple[str, str]) -> bool:
        """Whether a page of this origin is the engine's own, or of a host that is allowed by name."""
        scheme, _, rest = origin.partition("://")
        page = _authority(rest)
        default = _DEFAULT_PORTS.get(scheme)
        if page is None or default is None:
            return False
        same = page[0] == host[0] and (page[1] or default) == (host[1] or default)
        return same or page[0] in self._allowed


class Guard:
    """Lets requests to their handlers, in the engine, and sees to it that each gets an answer that its reader takes."""

    def __init__(self, access: Access, engine: Engine, reporter: Reporter, connections: Connections) -> None:
        self._access = access
        self._engine = engine
        self._reporter = reporter
        self._connections = connections

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the request, run the handler, send what it answers."""
        self._connections.works(request.transport)
        try:
            answer = await self._answer(request, handler)
            await self._send(request, answer)
            return answer
        finally:
            request.app[BODIES].release(request)
            self._connections.waits(request.transport)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._access.require(request)
            if request.method == "OPTIONS":
                return web.Response()
            with running_in(self._engine):
                return await handler(request)
        except Refused as refused:
            answer = refused.answer()
        except RylaError as error:
            answer = json_answer({"error": self._reporter.hide_in(error.as_dict())}, error.entry.http_status)
        if not request.content.is_eof():
            answer.force_close()
        return answer

    async def _send(self, request: web.Request, answer: web.StreamResponse) -> None:
        if isinstance(answer, web.WebSocketResponse):
            return
        try:
            await asyncio.wait_for(_sent(request, answer), ANSWER_SECONDS)
        except asyncio.TimeoutError:
            log.warning("The answer to %s was not taken within %.0f s: dropped.", request.path, ANSWER_SECONDS)
            if request.transport is not None:
                request.transport.abort()


def understood(handler: BaseHandler) -> BaseHandler:
    """``handler`` for requests whose headers are text and expect nothing unknown: aiohttp fails to refuse those."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            "".join(request.headers.values()).encode()
        except UnicodeEncodeError:
            return bad_request("invalid_header", "The headers of the request are not UTF-8.").answer()
        if request.headers.get("Expect", "100-continue").lower() != "100-continue":
            return Refused(417, "unknown_expectation", "The engine can only be expected to 100-continue.").answer()
        return await handler(request)

    return handle


async def _sent(request: web.Request, answer: web.StreamResponse) -> None:
    await answer.prepare(request)
    await answer.write_eof()


def _authority(text: str) -> tuple[str, str] | None:
    """The host and the port ("" when it has none) of a Host header; None for what is not written as browsers do."""
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None or int(match[2] or 0) > 65535:
        return None
    return match[1], match[2] or ""


def _allowed_name(text: str) -> str:
    authority = _authority(text)
    if authority is None:
        hint = "Write names or addresses without http://, comma-separated."
        raise RylaError("invalid_server", f"RYLA_ALLOWED_HOSTS has {text!r}, which is not a host name.", hint=hint)
    return authority[0]
