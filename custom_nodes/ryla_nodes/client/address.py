"""Where an engine is: its base URL and login."""

from __future__ import annotations

import base64
import functools
import importlib.util
import ipaddress
import os
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import certifi
import httpx

from .. import settings as environment
from ..errors import RylaError
from ..settings import Settings


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
    def parse(cls, text: str, settings: Settings | None = None) -> Address:
        """Read a base URL; the scheme may be left out.

        An address of this machine without a login gets that of ``RYLA_TOKEN``, which an embedded engine asks for.

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
        if any(character.isspace() or not character.isprintable() for character in url) or not _known(url):
            raise RylaError("invalid_server", f'"{shown}" is not the URL of an engine.')
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RylaError("invalid_server", f'"{shown}" is not the URL of an engine.')
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        base = f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if not user and not password and _is_loopback(parts.hostname):
            password = (settings or environment.load()).token or ""
        return cls(base, _authorization(user, password))

    @property
    def loopback(self) -> bool:
        """Whether it is this machine: then no proxy of the environment may come between."""
        return _is_loopback(urlsplit(self.base).hostname or "")

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every request bears."""
        return {"Authorization": self.authorization} if self.authorization else {}

    def websocket(self, client_id: str) -> str:
        """The URL of this client's websocket."""
        scheme, rest = self.base.split("://", 1)
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}/ws?clientId={client_id}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _known(url: str) -> bool:
    """Whether it is a URL for the HTTP library, too: it knows more of host names than a split."""
    try:
        httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return False
    return True


def _authorization(user: str, password: str) -> str:
    if user:
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    return f"Bearer {password}" if password else ""


_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_DIRECT = {"http_proxy_host": "none", "http_no_proxy": ["*"]}
"""The websocket library would ask the environment itself; its exception from that needs a proxy's name."""


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable of the environment that names it."""

    url: str
    variable: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}:{self.port} ({self.variable})"

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]


@dataclass(frozen=True)
class Route:
    """How to reach one engine.

    Attributes:
        proxy: None for the direct way; always for this machine.
        tls: what certificates to trust; None where nothing is encrypted.
    """

    proxy: Proxy | None
    tls: ssl.SSLContext | None

    @classmethod
    def to(cls, address: Address) -> Route:
        """The route that the environment wants.

        Raises:
            RylaError: ``invalid_proxy``, ``invalid_certificate``.
        """
        proxy = None if address.loopback else find_proxy(address.base)
        encrypted = address.base.startswith("https:") or (proxy is not None and proxy.url.startswith("https:"))
        return cls(proxy, _tls() if encrypted else None)

    def __str__(self) -> str:
        return f" through the proxy {self.proxy}" if self.proxy else ""

    @property
    def http(self) -> dict[str, Any]:
        """The options of ``httpx.AsyncClient``."""
        # Nothing is trusted where nothing is encrypted.
        verify = self.tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        proxy = httpx.Proxy(self.proxy.url, ssl_context=self.tls) if self.proxy else None
        return {"proxy": proxy, "verify": verify, "trust_env": False}

    @property
    def websocket(self) -> dict[str, Any]:
        """The options of ``websocket.WebSocket.connect``."""
        if self.proxy is None:
            return dict(_DIRECT)
        parts = urlsplit(self.proxy.url)
        login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        return {
            "http_proxy_host": parts.hostname,
            "http_proxy_port": self.proxy.port,
            "http_proxy_auth": login,
            "http_no_proxy": ["-"],
            "proxy_type": parts.scheme if parts.scheme.startswith("socks") else "http",
        }


def find_proxy(url: str) -> Proxy | None:
    """The proxy of the environment for a URL; None without one, and where NO_PROXY says so.

    Raises:
        RylaError: ``invalid_proxy``.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or _PORTS[parts.scheme]
    excluded = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    named = _named(parts.scheme, os.environ)
    if named is None or any(_matches(entry, host, port) for entry in excluded.replace(",", " ").split()):
        return None
    return _usable(named, host)


def _named(scheme: str, environ: Mapping[str, str]) -> Proxy | None:
    """The variable that holds for a scheme, in the order of curl."""
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        # On a web server HTTP_PROXY is what a stranger's request says.
        if environ.get(name, "").strip() and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
            return Proxy(environ[name].strip(), name)
    system = urllib.request.getproxies().get(scheme) if os.name == "nt" else None
    return Proxy(system, "the settings of Windows") if system else None


def _usable(proxy: Proxy, host: str) -> Proxy:
    url = proxy.url if "://" in proxy.url else f"http://{proxy.url}"
    # GNOME writes socks:// and means version 5.
    url = url.replace("socks://", "socks5://", 1) if url.startswith("socks://") else url
    shown = url.rsplit("@", 1)[-1]
    hint = f"Correct {proxy.variable}, or set NO_PROXY={host} to do without a proxy."
    try:
        parts = urlsplit(url)
        valid = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        valid = False
    if not valid:
        message = f'{proxy.variable} is "{shown}", which is no proxy that can be used: {", ".join(_PORTS)}.'
        raise RylaError("invalid_proxy", message, hint=hint, variable=proxy.variable)
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        message = f'{proxy.variable} names the SOCKS proxy "{shown}", which needs the package socksio.'
        hint = f"pip install socksio python-socks, or set NO_PROXY={host} to do without a proxy."
        raise RylaError("invalid_proxy", message, hint=hint, variable=proxy.variable)
    return Proxy(url, proxy.variable)


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means a host: ``*``, a name (its sub-domains, too), an address, a network."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # A name, or with a port.
    name, _, number = entry.rpartition(":") if entry.count(":") == 1 or "]:" in entry else (entry, "", "")
    if number and number != str(port):
        return False
    bare = name.strip("[]").lstrip("*").lstrip(".").casefold()
    return bool(bare) and (host.casefold() == bare or host.casefold().endswith(f".{bare}"))


def _tls() -> ssl.SSLContext:
    return _context(os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", ""))


@functools.cache
def _context(file: str, folder: str) -> ssl.SSLContext:
    """The certificates of SSL_CERT_FILE and SSL_CERT_DIR; without them those of browsers."""
    if folder and not Path(folder).is_dir():
        raise _no_certificates("SSL_CERT_DIR", folder, "there is no such folder")
    try:
        return ssl.create_default_context(cafile=file or (None if folder else certifi.where()), capath=folder or None)
    except OSError as error:  # What is wrong inside the file is one, too.
        raise _no_certificates("SSL_CERT_FILE", file, error.strerror or str(error)) from error


def _no_certificates(variable: str, value: str, why: str) -> RylaError:
    message = f'{variable} is "{value}", and no certificates can be read there: {why}.'
    return RylaError("invalid_certificate", message, hint=f"Correct or unset {variable}.", variable=variable)
