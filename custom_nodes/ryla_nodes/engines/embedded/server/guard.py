"""What every request passes: the origin check, the bearer token, the engine's context, errors as JSON."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from ....errors import RylaError
from ...protocol import Engine, running_in

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


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


@web.middleware
async def same_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse (403) what a web page of another origin has its visitor's browser send to this machine."""
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403)
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host and origin and not _same(host, origin):
        log.warning("A request from the origin %s to %s was refused.", origin, host)
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)


def _same(host: str, origin: str) -> bool:
    """Whether ``origin`` is this server; always, when the request did not come in by a loopback name."""
    ours, theirs = urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())
    if not ours.hostname or not theirs.hostname or not is_loopback(ours.hostname):
        return True
    if ours.port is None or theirs.port is None:
        return ours.hostname == theirs.hostname
    return ours.netloc == theirs.netloc


def bearer(token: str) -> Middleware:
    """Refuse (401) requests without ``Authorization: Bearer <token>``."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), token.encode()):
            return web.json_response({"error": "This engine needs Authorization: Bearer <RYLA_TOKEN>."}, status=401)
        return await handler(request)

    return check


def engine_context(engine: Engine) -> Middleware:
    """Let handlers find the engine, and turn failures of ours into JSON."""

    @web.middleware
    async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
        with running_in(engine):
            try:
                return await handler(request)
            except RylaError as error:
                return web.json_response({"error": error.as_dict()}, status=error.entry.http_status)

    return enter


async def json_object(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """The request's body, which must be a JSON object (or empty, if ``optional``); else 400."""
    data = await request.read()
    if optional and not data.strip():
        return {}
    try:
        body = json.loads(data)
    except ValueError as error:
        raise bad_request("invalid_json", f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad_request("invalid_json", "The body must be a JSON object.")
    return body


def bad_request(kind: str, message: str, details: str = "") -> web.HTTPBadRequest:
    """A 400 in the shape of ComfyUI's errors."""
    error = {"type": kind, "message": message, "details": details or message, "extra_info": {}}
    return web.HTTPBadRequest(text=json.dumps({"error": error, "node_errors": {}}), content_type="application/json")
