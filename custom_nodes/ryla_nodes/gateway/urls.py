"""Requests to addresses that clients name: only public ones, no redirects, bounded in size and time."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from ..errors import RylaError
from .options import Options

_SECONDS = 20.0
_LONGEST = 2048


@dataclass(frozen=True)
class Target:
    """A URL whose host was resolved and judged: connect to ``address``, and speak to ``host`` there."""

    url: str
    host: str
    address: str

    @property
    def pinned(self) -> str:
        """The URL with the address in the place of the host, so that no other answer of the DNS is used."""
        parts = urlsplit(self.url)
        address = f"[{self.address}]" if ":" in self.address else self.address
        return urlunsplit(parts._replace(netloc=f"{address}:{parts.port}" if parts.port else address))


class Fetcher:
    """Speaks HTTP to guarded URLs."""

    def __init__(self, options: Options) -> None:
        self._private = options.private_urls

    async def judge(self, url: str) -> Target:
        """Resolve a URL's host and see that it is a public address.

        Raises:
            RylaError: ``url_refused``.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise RylaError("url_refused", "The URL is malformed.") from None
        if parts.scheme not in ("http", "https") or not host or parts.username is not None or len(url) > _LONGEST:
            raise RylaError("url_refused", "A URL is http or https, with a host and without a login.")
        try:
            loop = asyncio.get_running_loop()
            found = await asyncio.wait_for(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), _SECONDS)
        except (OSError, UnicodeError, asyncio.TimeoutError):
            raise RylaError("url_refused", "The URL's host is not known.") from None
        addresses = [str(address[0]).partition("%")[0] for *_, address in found]
        if not addresses or not (self._private or all(map(is_public, addresses))):
            raise RylaError("url_refused", "The URL leads to an address that is not public.")
        return Target(url, host, addresses[0])

    async def get(self, url: str, most: int) -> bytes:
        """The bytes behind a URL.

        Raises:
            RylaError: ``url_refused``, ``image_too_large``.
        """
        target = await self.judge(url)
        try:
            return await asyncio.wait_for(self._get(target, most), _SECONDS)
        except (httpx.HTTPError, asyncio.TimeoutError, httpx.InvalidURL):
            raise RylaError("url_refused", "The URL gave no picture in time.") from None

    async def _get(self, target: Target, most: int) -> bytes:
        data = bytearray()
        async with _client() as http, http.stream("GET", target.pinned, **_addressed(target, {})) as response:
            if response.status_code != 200:
                raise RylaError("url_refused", f"The URL answered with HTTP {response.status_code}.")
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > most:
                    raise RylaError("image_too_large", f"The URL gives more than {most / 2**20:.0f} MiB.")
        return bytes(data)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """POST to a URL; the status of its answer, whose body is not read.

        Raises:
            RylaError: ``url_refused``.
            httpx.HTTPError: no answer.
        """
        target = await self.judge(url)
        async with (
            _client() as http,
            http.stream("POST", target.pinned, content=body, **_addressed(target, headers)) as response,
        ):
            return response.status_code


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet: neither private, local, shared, reserved nor a group's."""
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    if mapped is not None:
        ip = mapped
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=_SECONDS)


def _addressed(target: Target, headers: Mapping[str, str]) -> dict[str, Any]:
    """What makes a request to an address one to its host: the Host header, and the name in TLS."""
    netloc = urlsplit(target.url).netloc
    return {"headers": {**headers, "Host": netloc}, "extensions": {"sni_hostname": target.host}}
