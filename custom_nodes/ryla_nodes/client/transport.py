"""HTTP to one engine: every call ends within its limit, and every failure says whether the request was sent."""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from .address import Address
from .limits import Limits


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
