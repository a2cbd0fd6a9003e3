"""``ryla serve``: the HTTP gateway in the foreground."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings as environment
from ..errors import RylaError
from . import output
from .own_engines import comfyuis, embedded_engine
from .ray_engines import OPTION, RayChoice

if TYPE_CHECKING:
    from ..gateway.app import Gateway
    from ..gateway.options import Token

_SET_TOKEN = "Set RYLA_TOKEN or RYLA_TOKENS_FILE."
_PACKAGES = ("dbos", "fastapi", "fastapi_offline", "multipart", "prometheus_client", "uvicorn")


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines reach needs RYLA_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8190,
    server: Annotated[
        list[str] | None, typer.Option(help="Base URL of an engine; repeat it for several.", show_default=False)
    ] = None,
    start_comfyui: Annotated[
        Path | None, typer.Option(help="Folder of a ComfyUI to start and supervise.", show_default=False)
    ] = None,
    gpus: Annotated[
        str, typer.Option(help="GPUs for --start-comfyui, such as 0,1: one ComfyUI each.", show_default=False)
    ] = "",
    comfyui_python: Annotated[
        Path | None, typer.Option(help="The Python for --start-comfyui. Default: its own environment's.")
    ] = None,
    comfyui_args: Annotated[str, typer.Option(help="Arguments for --start-comfyui, such as '--cpu'.")] = "",
    ray: Annotated[
        str | None,
        typer.Option(
            OPTION,
            metavar="[ADDRESS]",
            help="Engines on a Ray cluster: HOST:PORT, auto for the one of this machine; a new one without a value.",
            show_default=False,
        ),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(help="Engines to deploy with --ray: 2, or 0:8 by the length of the queue.", show_default=False),
    ] = None,
    gpus_per_replica: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs for each of them. Default: 1 for a ComfyUI.", show_default=False),
    ] = None,
    workflow: Annotated[
        list[str] | None, typer.Option(help="Serve only this workflow; repeat it for several.", show_default=False)
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder of jobs and results. Default: gateway in RYLA_HOME.")
    ] = None,
    warm_up: Annotated[
        list[str] | None,
        typer.Option(
            help="Be ready only after each engine ran this workflow once; repeatable. Default: RYLA_WARMUP.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a job may take, its waiting included.")] = 600.0,
    queue: Annotated[int, typer.Option(min=1, help="Jobs that may wait; more are refused with 429.")] = 256,
    per_token: Annotated[
        int | None, typer.Option(min=1, help="Jobs that one token may have at once.", show_default=False)
    ] = None,
    keep_days: Annotated[float, typer.Option(min=0, help="Days that results are kept.")] = 7.0,
    keep_gib: Annotated[float, typer.Option(min=0, help="GiB of results that are kept.")] = 20.0,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that running jobs have at the end.")] = 60.0,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of web pages that may use it, such as https://app.example.", show_default=False),
    ] = None,
    host_name: Annotated[
        list[str] | None, typer.Option(help="Name by which it may be addressed; any with --host.", show_default=False)
    ] = None,
    require_token: Annotated[
        bool, typer.Option("--require-token", help="Do not start without a token, as behind a proxy all may come.")
    ] = False,
    allow_url_inputs: Annotated[
        bool, typer.Option("--allow-url-inputs", help="Take pictures by URL, from public addresses.")
    ] = False,
    allow_private_urls: Annotated[
        bool, typer.Option("--allow-private-urls", help="Let webhooks and picture URLs lead to private addresses.")
    ] = False,
    allow_missing_models: Annotated[
        bool, typer.Option("--allow-missing-models", help="Be ready although an engine does not list every model.")
    ] = False,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
    as_json: output.JsonOption = False,
) -> None:
    """Serve an HTTP endpoint for each workflow. Ctrl-C stops it; jobs that wait go on at the next start.

    Without --server, --start-comfyui and --ray: RYLA_SERVER, else the embedded engine.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RylaError("gateway_not_installed", f"Not installed: {', '.join(missing)}.")
    from ..gateway.app import Gateway
    from ..gateway.options import MIB, Limits, Options
    from ..gateway.security import tokens_of

    settings = environment.load()
    folder = (state or settings.home / "gateway").expanduser().absolute()
    tokens = tokens_of(settings)
    if require_token and not tokens:
        raise RylaError("token_required", "--require-token was given, and there is no token.", hint=_SET_TOKEN)
    servers = tuple(server or ()) or (() if start_comfyui or ray is not None else settings.servers)
    cluster = RayChoice(ray, replicas, gpus_per_replica)
    cluster.require_alone(tuple(server or ()), gpus)
    if start_comfyui and server:
        raise RylaError("conflicting_options", "--start-comfyui goes without --server.", hint="ryla serve --help")
    options = Options(
        settings=settings,
        state=folder,
        servers=servers,
        workflows=tuple(workflow or ()),
        tokens=tokens,
        origins=tuple(origin or ()),
        host_names=tuple(host_name or ()),
        loopback=_is_loopback(host, tokens),
        warm_up=tuple(warm_up or settings.warm_up),
        url_inputs=allow_url_inputs,
        private_urls=allow_private_urls,
        require_models=not allow_missing_models,
        limits=Limits(
            queued=queue,
            per_token=per_token,
            timeout=timeout,
            keep_seconds=keep_days * 86400,
            keep_bytes=int(keep_gib * 1024 * MIB),
        ),
    )
    if cluster.address is not None:
        gateway = partial(cluster.gateway, options, start_comfyui, comfyui_python, comfyui_args)
        _run(gateway, (host, port), drain, log_format == "json", [f"Ray ({cluster.address})"])
        return
    if start_comfyui:
        children = comfyuis(start_comfyui, comfyui_python, comfyui_args, gpus, folder)
    else:
        children = [] if servers else [embedded_engine(settings)]
    engines = [*(child.name for child in children), *(one.rsplit("@", 1)[-1] for one in servers)]
    _run(lambda: Gateway(options, children), (host, port), drain, log_format == "json", engines)


def _is_loopback(host: str, tokens: tuple[Token, ...]) -> bool:
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if not loopback and not tokens:
        message = f"The gateway was to listen on {host}, where other machines reach it, without a token."
        raise RylaError("token_required", message, hint=f"{_SET_TOKEN[:-1]}, or drop --host.")
    return loopback


def _run(
    make: Callable[[], Gateway], address: tuple[str, int], drain: float, json_log: bool, engines: Sequence[str]
) -> None:
    from ..gateway import logs, traces
    from ..gateway.server import Server, listen

    logs.configure(as_json=json_log, level="info")
    traces.configure()
    listening = listen(*address)
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    url = f"http://{host}:{listening.getsockname()[1]}"

    gateway = make()
    _tell(url, gateway.options.state, engines)
    Server(gateway, listening, drain).serve_to_end()


def _tell(url: str, state: Path, engines: Sequence[str]) -> None:
    if output.json_mode():
        output.emit({"url": url, "state": str(state)})
        sys.stdout.flush()
        return
    told = f"Gateway at {url} (Ctrl-C stops it), engines: {', '.join(engines)}"
    output.console.print(told, soft_wrap=True, markup=False)
