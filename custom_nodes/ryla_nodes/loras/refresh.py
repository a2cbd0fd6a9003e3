"""The deployment's hook that brings a volume up to date before a LoRA is said to be missing.

A cloud volume that is mounted in a running container may show files committed later only after a reload. A deployment
either calls ``set_hook`` with a callable, or sets ``RYLA_VOLUME_REFRESH`` to a command.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable

from .. import settings
from ..errors import RylaError

TIMEOUT_S = 60

_lock = threading.Lock()
_state: dict[str, float] = {"started": 0.0}
_hooks: list[Callable[[], None]] = []


def set_hook(hook: Callable[[], None] | None) -> None:
    """Call ``hook`` before "not found" is said; None goes back to ``RYLA_VOLUME_REFRESH``."""
    _hooks[:] = [] if hook is None else [hook]


def run() -> None:
    """Refresh the volume once. Callers that wait for a refresh begun after they asked share it.

    Raises:
        RylaError: ``volume_refresh_failed`` when the command fails; whatever a hook raises.
    """
    asked = time.monotonic()
    with _lock:
        if _state["started"] > asked:
            return
        started = time.monotonic()
        _refresh()
        _state["started"] = started


def _refresh() -> None:
    command = settings.load().volume_refresh
    if _hooks:
        _hooks[0]()
    elif command:
        _run_command(command)


def _run_command(command: str) -> None:
    try:
        words = shlex.split(command, posix=os.name == "posix")
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise _failed(command, str(error)) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise _failed(command, f"exit status {done.returncode}{': ' + said[-1] if said else ''}")


def _failed(command: str, why: str) -> RylaError:
    return RylaError("volume_refresh_failed", f"RYLA_VOLUME_REFRESH ({command}) failed: {why}", command=command)
