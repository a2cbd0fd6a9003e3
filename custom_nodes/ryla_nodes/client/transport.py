"""HTTP calls to one engine that each end within a limit.

Every call that fails says whether the request was sent.
"""

from __future__ import annotations

import asyncio
import json
import platform
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from ..errors import RylaError
from .address import Address, Route
from .limits import Limits

# What proxies and tunnels answer when there is nothing behind them; 504 and 524 are also said of one that is slow.
_NOTHING_BEHIND = (404, 410, 502, 503, 520, 521, 522, 523, 525, 526, 530)


class CallFailed(Exception):
    """A call brought no answer.

    Attributes:
        sent: whether the request may have reached the engine.
        absent: no engine is at the address: nobody listens, the name is unknown, or a proxy has nothing behind it.
    """

    def __init__(self, why: str, *, sent: bool, absent: bool = False) -> None:
        super().__init__(why)
        self.sent = sent
        self.absent = absent


class Transport:
    """The connections to one engine. Belongs to the event loop that it is first used in.

    Raises:
        RylaError: ``invalid_proxy``, ``invalid_certificate`` of the environment.
    """

    def __init__(self, address: Address, limits: Limits) -> None:
        self.address = address
        self.limits = limits
        self.route = Route.to(address)
        self._http = httpx.AsyncClient(
            **self.route.http,
            timeout=httpx.Timeout(None, connect=limits.connect),
            limits=httpx.Limits(max_connections=64, keepalive_expiry=4),
            headers={"User-Agent": f"ryla-nodes (Python {platform.python_version()})", **address.headers},
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def call(self, method: str, path: str, *, limit: float | None = None, **options: Any) -> httpx.Response:
        """One request, its answer read to the end, whatever its HTTP status.

        Raises:
            CallFailed: no complete answer within ``limit`` seconds.
        """
        limit = self.limits.answer if limit is None else limit
        with self._named(limit):
            return await asyncio.wait_for(self._http.request(method, f"{self.address.base}{path}", **options), limit)

    @asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """GET an answer that is read as it comes, for as long as that takes.

        Raises:
            CallFailed: no answer within the limit of a small one, or the connection breaks inside of the block.
        """
        limit = self.limits.answer
        request = self._http.build_request("GET", f"{self.address.base}{path}", headers=dict(headers))
        with self._named(limit):
            response = await asyncio.wait_for(self._http.send(request, stream=True), limit)
            try:
                yield response
            finally:
                await response.aclose()

    @contextmanager
    def _named(self, limit: float) -> Iterator[None]:
        """Failures of the HTTP library as ours."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            absent = not isinstance(error, httpx.PoolTimeout)
            raise CallFailed(f"{_reason(error)}{self.route}", sent=False, absent=absent) from error
        except (asyncio.TimeoutError, httpx.TimeoutException) as error:
            raise CallFailed(f"no answer within {limit:.0f} s{self.route}", sent=True) from error
        except httpx.HTTPError as error:
            why = f"the connection broke ({str(error) or type(error).__name__}){self.route}"
            raise CallFailed(why, sent=True) from error

    async def read(self, path: str, *, limit: float | None = None) -> Any:
        """GET JSON.

        Raises:
            CallFailed: no answer, a status other than 200, or a body that is not JSON.
        """
        response = await self.call("GET", path, limit=limit)
        if response.status_code != 200:
            raise self.failed(response)
        return decoded(response)

    def failed(self, response: httpx.Response) -> CallFailed:
        """A status that is no answer."""
        status = response.status_code
        return CallFailed(f"HTTP {status}{self.route}", sent=True, absent=status in _NOTHING_BEHIND)

    async def read_all(self, paths: Iterable[str], *, limit: float | None = None) -> list[Any]:
        """GET JSON from several paths at once: see ``read``."""
        return list(await asyncio.gather(*(self.read(path, limit=limit) for path in paths)))

    async def post(self, path: str, body: Mapping[str, Any], *, limit: float | None = None) -> httpx.Response:
        """POST JSON; the caller looks at the status."""
        return await self.call("POST", path, json=body, limit=limit)


def is_problem(response: httpx.Response) -> bool:
    """Whether an answer is a failure as gateways tell it (RFC 9457)."""
    kind: str = response.headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower() == "application/problem+json"


def decoded(response: httpx.Response) -> Any:
    """The JSON of an answer.

    Raises:
        CallFailed: it is not JSON.
    """
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError) as error:
        page = response.content.lstrip()[:1] == b"<"
        raise CallFailed(
            "the answer is a web page" if page else "the answer is not JSON", sent=True, absent=page
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        for inner in getattr(error, "exceptions", ()):
            yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "connection refused"
    distrust = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if distrust is not None:
        told = distrust.verify_message or str(distrust)
        return f"its certificate is not trusted ({told}; SSL_CERT_FILE=FILE names one to trust)"
    if isinstance(error, httpx.TimeoutException):
        return "no connection in time"
    deepest = [str(cause) for cause in causes if str(cause)]
    return deepest[-1] if deepest else type(error).__name__


@dataclass(frozen=True)
class EngineInfo:
    """What ``/system_stats`` says. ``device`` is the name of the first GPU, or of the CPU."""

    server: str
    version: str
    device: str


def told_by(server: str, response: httpx.Response, way: str) -> EngineInfo:
    """What the answer of ``GET /system_stats`` says.

    Args:
        way: the proxy that it came through, in words.

    Raises:
        RylaError: ``engine_forbidden``, ``engine_error`` or ``not_comfyui``.
    """
    status = response.status_code
    if is_problem(response):
        message = f"What answers at {server}{way} is no engine but a gateway (ryla serve)."
        raise RylaError("not_comfyui", message, hint=f"--gateway {server}", server=server, status=status)
    if status in (401, 403, 407):
        message = f"{server} refuses us (HTTP {status}{way}): it, or a proxy before it, wants a login."
        raise RylaError("engine_forbidden", message, server=server, status=status)
    if status >= 500:
        message = f"{server} answers{way} with HTTP {status} where a ComfyUI tells about itself."
        raise RylaError("engine_error", message, server=server, status=status)
    try:
        body = decoded(response) if status == 200 else None
    except CallFailed:
        body = None  # said below
    system = body.get("system") if isinstance(body, dict) else None
    devices = body.get("devices") if isinstance(body, dict) else None
    if not isinstance(system, dict) or not isinstance(devices, list):
        target = response.headers.get("Location")
        elsewhere = f": it redirects to {target}." if target else "."
        message = f"What answers at {server}{way} is not a ComfyUI{elsewhere}"
        raise RylaError("not_comfyui", message, server=server, status=status)
    first = devices[0] if devices and isinstance(devices[0], dict) else {}
    return EngineInfo(server, str(system.get("comfyui_version") or "?"), str(first.get("name") or "?"))
