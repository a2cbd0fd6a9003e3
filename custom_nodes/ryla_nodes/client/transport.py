"""The way to one engine: its address and login, and HTTP calls that each end within a limit.

Every call that fails says whether the request was sent.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from ..errors import RylaError
from .limits import Limits


@dataclass(frozen=True)
class Address:
    """A base URL such as ``http://127.0.0.1:8188``, ``https://user:password@host/comfy`` or ``https://:token@host``.

    Attributes:
        base: scheme, host, port and path, without login or a slash at the end. Also what people see.
        authorization: the header that logs in, or "": Basic for a user and password, Bearer for a token alone.
    """

    base: str
    authorization: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read a base URL; the scheme may be left out.

        Raises:
            RylaError: ``invalid_server``.
        """
        url = text.strip() if "://" in text else f"http://{text.strip()}"
        shown = text.rsplit("@", 1)[-1]
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise RylaError("invalid_server", f'"{shown}" is not the URL of an engine: {error}.') from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RylaError("invalid_server", f'"{shown}" is not the URL of an engine.')
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        base = f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
        return cls(base, _authorization(unquote(parts.username or ""), unquote(parts.password or "")))

    @property
    def loopback(self) -> bool:
        """Whether it is this machine: then no proxy of the environment may come between."""
        host = urlsplit(self.base).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every request bears."""
        return {"Authorization": self.authorization} if self.authorization else {}

    def websocket(self, client_id: str) -> str:
        """The URL of this client's websocket."""
        scheme, rest = self.base.split("://", 1)
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}/ws?clientId={client_id}"


class CallFailed(Exception):
    """A call brought no answer.

    Attributes:
        sent: whether the request may have reached the engine.
        refused: nobody listens at the address.
    """

    def __init__(self, why: str, *, sent: bool, refused: bool = False) -> None:
        super().__init__(why)
        self.sent = sent
        self.refused = refused


class Transport:
    """The connections to one engine. Belongs to the event loop that it is first used in."""

    def __init__(self, address: Address, limits: Limits) -> None:
        self.address = address
        self.limits = limits
        self._http = httpx.AsyncClient(
            # A proxy of the environment between us and our own machine is never meant.
            trust_env=not address.loopback,
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
        try:
            return await asyncio.wait_for(self._http.request(method, f"{self.address.base}{path}", **options), limit)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            refused = any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))
            raise CallFailed(_reason(error, refused), sent=False, refused=refused) from error
        except (asyncio.TimeoutError, httpx.TimeoutException) as error:
            raise CallFailed(f"no answer within {limit:.0f} s", sent=True) from error
        except httpx.HTTPError as error:
            raise CallFailed(f"the connection broke ({str(error) or type(error).__name__})", sent=True) from error

    async def read(self, path: str, *, limit: float | None = None) -> Any:
        """GET JSON.

        Raises:
            CallFailed: no answer, a status other than 200, or a body that is not JSON.
        """
        response = await self.call("GET", path, limit=limit)
        if response.status_code != 200:
            raise CallFailed(f"HTTP {response.status_code}", sent=True)
        return decoded(response)

    async def read_all(self, paths: Iterable[str], *, limit: float | None = None) -> list[Any]:
        """GET JSON from several paths at once: see ``read``."""
        return list(await asyncio.gather(*(self.read(path, limit=limit) for path in paths)))

    async def post(self, path: str, body: Mapping[str, Any], *, limit: float | None = None) -> httpx.Response:
        """POST JSON; the caller looks at the status."""
        return await self.call("POST", path, json=body, limit=limit)


def decoded(response: httpx.Response) -> Any:
    """The JSON of an answer.

    Raises:
        CallFailed: it is not JSON.
    """
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise CallFailed("the answer is not JSON", sent=True) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        for inner in getattr(error, "exceptions", ()):
            yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _reason(error: BaseException, refused: bool) -> str:
    if refused:
        return "connection refused"
    if isinstance(error, httpx.TimeoutException):
        return "no connection in time"
    deepest = [str(cause) for cause in _causes(error) if str(cause)]
    return deepest[-1] if deepest else type(error).__name__


def _authorization(user: str, password: str) -> str:
    if user:
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    return f"Bearer {password}" if password else ""
