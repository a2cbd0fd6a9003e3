"""What every command prints: people read stderr, programs read one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import RylaError

console = Console(stderr=True, highlight=False)

_mode = {"json": False, "debug": False}


def _set_json(value: bool) -> bool:
    _mode["json"] = value
    return value


JsonOption = Annotated[
    bool, typer.Option("--json", callback=_set_json, is_eager=True, help="Print one JSON object on stdout.")
]
"""A command's ``--json``, declared as ``json_: output.JsonOption = False`` and asked for by ``json_mode``."""


def set_debug(value: bool) -> bool:
    _mode["debug"] = value
    return value


def debug() -> bool:
    """Whether ``ryla --debug`` was given: tracebacks are shown."""
    return _mode["debug"]


def json_mode() -> bool:
    """Whether the running command was given ``--json``."""
    return _mode["json"]


def emit(payload: dict[str, Any]) -> None:
    """Print the success object of ``--json``: ``{"ok": true, ...payload}``."""
    sys.stdout.write(json.dumps({"ok": True, **payload}, ensure_ascii=False, default=str) + "\n")


def report_error(error: RylaError) -> None:
    """One line that says what failed and one with the next command; the JSON object instead with ``--json``."""
    if json_mode():
        sys.stdout.write(json.dumps({"ok": False, "error": error.as_dict()}, ensure_ascii=False, default=str) + "\n")
        return
    console.print(f"[bold red]error[/] [dim]{error.code}[/]  ", end="")
    console.print(error.message, markup=False, soft_wrap=True)
    if error.hint:
        console.print("[bold]next[/]   ", end="")
        console.print(error.hint, markup=False, soft_wrap=True)
