"""Every RYLA_* environment variable, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The environment, read once. Paths are expanded and absolute; nothing is created here.

    Attributes:
        servers: RYLA_SERVER: base URLs of the engines to use, comma-separated there (same as --server).
        gateway: RYLA_GATEWAY: base URL of the gateway to use instead of engines (same as --gateway).
        volume: RYLA_VOLUME: folder laid out like ComfyUI's models/; searched before ComfyUI's own folders for LoRAs.
        home: RYLA_HOME: where the embedded engine keeps models of your own, inputs and outputs; ``ryla`` in the user's
            cache folder when unset.
        workflows: RYLA_WORKFLOWS: folder of additional workflows, searched before the shipped ones.
        token: RYLA_TOKEN: bearer token that the embedded engine and the gateway ask for everywhere; they need one where
            other machines reach them. The runner sends it to engines on this machine.
        comfyui: RYLA_COMFYUI: folder of the ComfyUI to work with; comfy-cli's workspace when unset.
        catalogue: RYLA_CATALOGUE: TOML file whose model entries are merged over the shipped catalogue.
        volume_refresh: RYLA_VOLUME_REFRESH: command run once before a LoRA is said to be missing, such as a cloud
            volume's reload.
        lora_roots: RYLA_LORA_ROOTS: folders that links inside a LoRA folder may lead to, separated as in PATH.
        tokens_file: RYLA_TOKENS_FILE: TOML file of the gateway's tokens: their SHA-256, names and limits.
        jobs_url: RYLA_JOBS_URL: database of the gateway's jobs, such as postgresql://USER@HOST/NAME; a file when unset.
        gpu_usd_per_hour: RYLA_GPU_USD_PER_HOUR: what an hour of the engine's GPU costs, or the name of a price list.
        webhook_secret: RYLA_WEBHOOK_SECRET: what the gateway signs webhooks with: whsec_ and base64, or any text.
        xet: RYLA_XET: 1 downloads by Xet where the hub has it: parallel, but an interrupted download starts again.
        allowed_hosts: RYLA_ALLOWED_HOSTS: host names by which the embedded engine may be asked beside this machine's,
            comma-separated there.
        prefetch: RYLA_PREFETCH: workflows and models whose files are read while an engine starts,
            comma-separated there.
        modal: RYLA_MODAL: TOML file of the deployment on Modal; deploy/modal.toml of the repository when unset.
        warm_up: RYLA_WARMUP: workflows that an engine runs once before it is called ready, comma-separated there.
        ahead: RYLA_AHEAD: 0 keeps FLUX.1's blocks from being compiled ahead for later processes.
    """

    servers: tuple[str, ...]
    volume: Path | None
    home: Path
    workflows: Path | None
    token: str | None
    comfyui: Path | None = None
    catalogue: Path | None = None
    volume_refresh: str | None = None
    lora_roots: tuple[Path, ...] = ()
    xet: bool = False
    allowed_hosts: tuple[str, ...] = ()
    tokens_file: Path | None = None
    jobs_url: str | None = None
    gpu_usd_per_hour: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    gateway: str | None = None
    prefetch: tuple[str, ...] = ()
    warm_up: tuple[str, ...] = ()
    modal: Path | None = None
    ahead: bool = True


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the ``RYLA_*`` variables; unset or blank ones take their defaults."""

    def text(name: str) -> str:
        return environ.get(name, "").strip()

    def path(name: str) -> Path | None:
        return _folder(text(name)) if text(name) else None

    def switched(name: str, unset: bool = False) -> bool:
        return text(name).lower() in ("1", "true", "yes", "on") if text(name) else unset

    def listed(name: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text(name).split(",") if part.strip())

    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Settings(
        servers=listed("RYLA_SERVER"),
        volume=path("RYLA_VOLUME"),
        home=path("RYLA_HOME") or (cache / "ryla").absolute(),
        workflows=path("RYLA_WORKFLOWS"),
        token=text("RYLA_TOKEN") or None,
        comfyui=path("RYLA_COMFYUI"),
        catalogue=path("RYLA_CATALOGUE"),
        volume_refresh=text("RYLA_VOLUME_REFRESH") or None,
        lora_roots=tuple(map(_folder, filter(None, text("RYLA_LORA_ROOTS").split(os.pathsep)))),
        xet=switched("RYLA_XET"),
        allowed_hosts=listed("RYLA_ALLOWED_HOSTS"),
        tokens_file=path("RYLA_TOKENS_FILE"),
        jobs_url=text("RYLA_JOBS_URL") or None,
        gpu_usd_per_hour=text("RYLA_GPU_USD_PER_HOUR") or None,
        webhook_secret=text("RYLA_WEBHOOK_SECRET") or None,
        gateway=text("RYLA_GATEWAY") or None,
        prefetch=listed("RYLA_PREFETCH"),
        warm_up=listed("RYLA_WARMUP"),
        modal=path("RYLA_MODAL"),
        ahead=switched("RYLA_AHEAD", unset=True),
    )


def _folder(text: str) -> Path:
    return Path(text.strip()).expanduser().absolute()
