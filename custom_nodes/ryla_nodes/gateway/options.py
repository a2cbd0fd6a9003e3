"""What a gateway is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..settings import Settings

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """How much of everything the gateway takes.

    Attributes:
        body_bytes: the largest request body.
        image_bytes, image_pixels: the largest picture, as a file and unpacked.
        text_length: the longest prompt, in characters.
        queued: how many jobs may wait for an engine; more are refused with 429.
        per_token: how many jobs one token may have at once; None: any number.
        engine_depth: how many jobs an engine is given at once, so that it never waits for the next.
        timeout: seconds that a job may take from its acceptance, its time in the queue included.
        engine_wait: seconds that a job waits while every engine is out of reach.
        body_seconds: how long a request's body may take to arrive.
        keep_seconds, keep_bytes: how long, and how much of, the results are kept.
        free_bytes: no job is taken when the disk of the results has less.
    """

    body_bytes: int = 64 * MIB
    image_bytes: int = 32 * MIB
    image_pixels: int = 50_000_000
    text_length: int = 32_768
    queued: int = 256
    per_token: int | None = None
    engine_depth: int = 2
    timeout: float = 600.0
    engine_wait: float = 120.0
    body_seconds: float = 60.0
    keep_seconds: float = 7 * 86400.0
    keep_bytes: int = 20 * 2**30
    free_bytes: int = 512 * MIB


@dataclass(frozen=True)
class Token:
    """Who may use the gateway.

    Attributes:
        name: what the log and the metrics call its bearer.
        sha256: lower-case hex of the secret's SHA-256.
        concurrency: how many jobs it may have at once; None: the gateway's own limit.
    """

    name: str
    sha256: str = field(repr=False)
    concurrency: int | None = None


@dataclass(frozen=True)
class Options:
    """One gateway.

    Attributes:
        settings: the environment.
        state: the folder of jobs, results and uploads.
        servers: base URLs of the engines.
        workflows: the enabled workflows by name; () for all.
        tokens: who may use it; () for everybody who reaches it.
        origins: the origins of web pages, besides its own, that may use it.
        host_names: by which names it may be addressed; () for any, unless it listens on this machine only.
        loopback: it listens on this machine only.
        warm_up: the workflows that each engine runs once before the gateway is ready.
        url_inputs: pictures may be given by URL.
        private_urls: webhooks and picture URLs may lead to private addresses.
        hold: the call of a job in the background is held open, its answer sent, until the job has ended: for a host
            that counts the calls, to tell what is busy.
        require_models: a workflow whose models the engines do not list keeps the gateway from being ready.
    """

    settings: Settings
    state: Path
    servers: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()
    origins: tuple[str, ...] = ()
    host_names: tuple[str, ...] = ()
    loopback: bool = True
    warm_up: tuple[str, ...] = ()
    url_inputs: bool = False
    private_urls: bool = False
    hold: bool = False
    require_models: bool = True
    limits: Limits = Limits()
