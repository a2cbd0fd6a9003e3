"""Where an engine is: its base URL and login."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

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
