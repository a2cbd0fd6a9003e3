"""Which engine ``ryla run`` uses, and its life while it does."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from ...client import Client
from ...client.address import Address
from ...client.api import EngineProbe
from ...client.async_client import DEFAULT_SERVER
from ...client.limits import Limits
from ...client.sync_client import SyncClient
from ...engines import embedded
from ...errors import RylaError
from ...settings import Settings
from ...workflows import prefetch
from .. import interrupt, output
from .request import EngineKind

EMBEDDED = "+ryla.embedded"
"""What the version of an embedded engine ends with."""

_EMBEDDED_PAINTS = (
    'Its own models draw a shape ("a red star at the top left, navy background") or a face ("a portrait of a person, '
    'mint background"), best at 256x256, up to 512x512: --width 256 --height 256.'
)

OF_OURS = Limits(gone_after=1.0, patience=1.0)
"""When a child of ours refuses connections, it is dead."""

_ENDING_GRACE = 2.0


@dataclass(frozen=True)
class Choice:
    """What the command line says about the engine.

    Attributes:
        start: the folder of a ComfyUI to start, with the Python and the arguments for it.
        gateway: the base URL of the gateway that takes the engines' place; "" for none.
    """

    servers: Sequence[str] = ()
    kind: EngineKind | None = None
    start: Path | None = None
    python: Path | None = None
    arguments: str = ""
    gateway: str = ""

    def gateway_url(self, settings: Settings) -> str:
        """The gateway's URL as it was given, else that of RYLA_GATEWAY where no engine was named; "" for engines.

        Raises:
            RylaError: ``conflicting_options``.
        """
        engines = bool(self.servers or self.kind or self.start)
        if self.gateway and engines:
            message = "--gateway goes with neither --server nor --engine nor --start-comfyui."
            raise RylaError("conflicting_options", message)
        return self.gateway or ("" if engines else settings.gateway or "")


@contextmanager
def client(choice: Choice, settings: Settings) -> Iterator[SyncClient[Any]]:
    """A client of the gateway, or of the engines to use; see ``_engines``."""
    if choice.gateway:
        from ...client import GatewayClient

        with GatewayClient(choice.gateway, settings=settings, on_interrupt=_cancelling) as gateway:
            yield gateway
        return
    with (
        _engines(choice, settings) as (servers, limits),
        Client(*servers, limits=limits, settings=settings, on_interrupt=_cancelling) as one,
    ):
        yield one


def paints_drawings(client: SyncClient[Any]) -> bool:
    """Whether the first engine is the embedded one, whose own models know drawings."""
    versions = client.call(client.asynchronous.versions())
    return bool(versions) and versions[0].endswith(EMBEDDED)


@contextmanager
def _engines(choice: Choice, settings: Settings) -> Iterator[tuple[tuple[str, ...], Limits]]:
    """The base URLs of the engines to use: the ComfyUI to start, the servers that are named, those of RYLA_SERVER, a
    ComfyUI on this machine's port 8188, the embedded engine. One that was not named is said in one line.

    Raises:
        RylaError: ``conflicting_options``, ``comfyui_start_failed``, ``comfyui_crashed``, ``embedded_not_installed``.
    """
    require_one(choice)
    if choice.start is not None:
        with _started(choice.start, choice.python, arguments_of(choice)) as url:
            yield (url,), OF_OURS
        return
    servers, why = servers_of(choice, settings)
    if servers:
        yield servers, Limits()
        return
    with _embedded(settings, why) as url:
        yield (url,), Limits()


def require_one(choice: Choice) -> None:
    """Refuse engines that exclude each other.

    Raises:
        RylaError: ``conflicting_options``.
    """
    embed = choice.kind is EngineKind.EMBEDDED
    if choice.start is not None and (choice.servers or embed):
        raise RylaError("conflicting_options", "--start-comfyui goes with neither --server nor --engine embedded.")
    if choice.servers and embed:
        raise RylaError("conflicting_options", "--engine embedded runs in this process; it has no --server.")


def arguments_of(choice: Choice) -> tuple[str, ...]:
    """What ``--comfyui-args`` holds, as a shell splits it."""
    return tuple(shlex.split(choice.arguments))


def servers_of(choice: Choice, settings: Settings) -> tuple[tuple[str, ...], str]:
    """The base URLs of engines that are there, said in one line where they were not named; none for the embedded one.

    With it why a ComfyUI on this machine is not taken, in brackets.
    """
    embed = choice.kind is EngineKind.EMBEDDED
    servers = tuple(choice.servers) or (() if embed else settings.servers)
    why = ""
    if not servers and choice.kind is EngineKind.COMFYUI:
        servers = (DEFAULT_SERVER,)
    elif not servers and not embed:
        version, why = _local()
        servers = (DEFAULT_SERVER,) if version else ()
        if version:
            output.say(f"Engine: ComfyUI {version} at {DEFAULT_SERVER}")
    elif servers and not choice.servers:
        output.say(f"Engine: {', '.join(Address.parse(server).base for server in servers)} (RYLA_SERVER)")
    return servers, why


def _local() -> tuple[str, str]:
    """The version of the ComfyUI on this machine's usual port; else why there is none."""
    with EngineProbe(DEFAULT_SERVER, Limits(connect=0.5, answer=2.0)) as engine:
        try:
            return engine.info().version, ""
        except RylaError as error:
            absent = error.code == "engine_unreachable"
            return "", f" (no ComfyUI at {DEFAULT_SERVER})" if absent else f" ({error.message.rstrip('.')})"


@contextmanager
def _embedded(settings: Settings, why: str) -> Iterator[str]:
    embedded.require()
    output.say(f"Engine: embedded{why}. {_EMBEDDED_PAINTS}")
    prefetch.start_for_embedded(settings)
    from ...engines.embedded.server.server import EngineServer
    from ...nodes import node_classes

    # Nobody else may ask it: so it may also say where its files are.
    token = secrets.token_urlsafe()
    engine = EngineServer(settings.home, node_classes(), settings=settings, token=token, hide_paths=False).start()
    prefetch.ready(settings.volume)
    try:
        yield engine.login_url
    except RylaError as error:
        if error.code != "cancel_unverified":
            engine.stop()
        raise
    else:
        engine.stop()


@contextmanager
def _started(folder: Path, python: Path | None, arguments: Sequence[str]) -> Iterator[str]:
    from ...client.comfyui_process import ComfyUIProcess
    from ...models.workspace import python_of

    folder = folder.expanduser().absolute()
    with output.console.status(f"Starting ComfyUI in {folder}") as status:
        process = ComfyUIProcess(
            folder,
            python or python_of(folder),
            arguments=arguments,
            on_line=lambda line: status.update(f"Starting ComfyUI: [dim]{escape(line[:100])}[/]"),
        ).start()
    unverified = False
    try:
        output.say(f"Engine: ComfyUI in {folder} at {process.url}")
        yield process.url
    except RylaError as error:
        unverified = error.code == "cancel_unverified"
        crash = process.crash()
        if crash is not None and error.entry.exit_status == 4:
            raise crash from error
        raise
    finally:
        process.stop(**_haste(unverified))


def _haste(unverified: bool) -> dict[str, float]:
    """How much time a ComfyUI of ours has to stop: none after a second Ctrl-C, little when we are told to end."""
    if unverified:
        return {"grace": 0.0}
    return {"grace": _ENDING_GRACE} if interrupt.ending() else {}


def _cancelling() -> None:
    """What the first Ctrl-C says."""
    again = "" if interrupt.ending() else "; Ctrl-C again leaves at once"
    output.say(f"Cancelling on the engine{again}.")
