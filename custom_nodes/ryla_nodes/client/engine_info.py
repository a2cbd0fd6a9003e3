"""Who answers at an engine's address, by its ``/system_stats``."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from ..errors import RylaError
from .transport import CallFailed, decoded, is_problem


@dataclass(frozen=True)
class EngineInfo:
    """What ``/system_stats`` says. ``device`` is the name of the first GPU, or of the CPU."""

    server: str
    version: str
    device: str


def told_by(server: str, response: httpx.Response, way: str) -> EngineInfo:
    """What the answer of ``GET /system_stats`` says.

    Args:
        way: the proxy that it came through, in words.

    Raises:
        RylaError: ``engine_forbidden``, ``engine_error`` or ``not_comfyui``.
    """
    status = response.status_code
    if is_problem(response):
        message = f"What answers at {server}{way} is no engine but a gateway (ryla serve)."
        raise RylaError("not_comfyui", message, hint=f"--gateway {server}", server=server, status=status)
    if status in (401, 403, 407):
        message = f"{server} refuses us (HTTP {status}{way}): it, or a proxy before it, wants a login."
        raise RylaError("engine_forbidden", message, server=server, status=status)
    if status >= 500:
        message = f"{server} answers{way} with HTTP {status} where a ComfyUI tells about itself."
        raise RylaError("engine_error", message, server=server, status=status)
    try:
        body = decoded(response) if status == 200 else None
    except CallFailed:
        body = None  # said below
    system = body.get("system") if isinstance(body, dict) else None
    devices = body.get("devices") if isinstance(body, dict) else None
    if not isinstance(system, dict) or not isinstance(devices, list):
        target = response.headers.get("Location")
        elsewhere = f": it redirects to {target}." if target else "."
        message = f"What answers at {server}{way} is not a ComfyUI{elsewhere}"
        raise RylaError("not_comfyui", message, server=server, status=status)
    first = devices[0] if devices and isinstance(devices[0], dict) else {}
    return EngineInfo(server, str(system.get("comfyui_version") or "?"), str(first.get("name") or "?"))
