"""``ryla engine``: the embedded engine in the foreground."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from .. import settings
from ..engines import embedded
from ..errors import RylaError
from ..workflows import manifest, prefetch, warm_up
from . import output

POLL_SECONDS = 0.5

log = logging.getLogger(embedded.__name__)


def engine(
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines reach needs RYLA_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8188,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of inputs, outputs and models of your own; RYLA_HOME when not given."),
    ] = None,
    json_: output.JsonOption = False,
) -> None:
    """Run the embedded engine: ComfyUI's HTTP API without a GPU, on small models that come with it. Ctrl-C stops it."""
    embedded.require()
    environment = settings.load()
    prefetch.start_for_embedded(environment)
    from ..engines.embedded.server.server import EngineServer
    from ..nodes import node_classes

    _log_to_stderr()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    folder = (home or environment.home).expanduser().absolute()
    server = EngineServer(folder, node_classes(), port, host, token=environment.token, settings=environment)
    with server:
        prefetch.ready(environment.volume)
        if environment.warm_up:
            _warm_up(server.login_url, environment, stop)
        if output.json_mode():
            output.emit({"url": server.url, "home": str(server.files.home)})
            sys.stdout.flush()
        else:
            asks = ", asks for RYLA_TOKEN" if environment.token else ""
            output.console.print(f"Embedded engine at {server.url} (Ctrl-C stops it{asks})", soft_wrap=True)
        while not stop.wait(POLL_SECONDS):
            pass
        # A second Ctrl-C while a job is being stopped leaves at once.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _warm_up(url: str, environment: settings.Settings, stop: threading.Event) -> None:
    """Run what RYLA_WARMUP names, until all is done or ``stop`` is set."""
    warming = threading.Thread(target=_run_once, args=(url, environment), daemon=True)
    warming.start()
    while warming.is_alive() and not stop.wait(0.05):
        pass


def _run_once(url: str, environment: settings.Settings) -> None:
    from ..client import Client

    with Client(url, settings=environment) as client:
        for name in environment.warm_up:
            try:
                workflow = manifest.load(name, environment)
                client.run(workflow, warm_up.parameters(workflow), timeout=warm_up.SECONDS)
            except RylaError as error:
                log.warning("RYLA_WARMUP: %s failed: %s", name, error.message)


def _log_to_stderr() -> None:
    """One line a job, and the traceback of a node that fails."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)
