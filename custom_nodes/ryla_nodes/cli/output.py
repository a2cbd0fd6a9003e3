"""What every command prints: people read stderr, programs read one JSON object on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO, TextIOWrapper
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from .. import commands
from ..errors import RylaError
from ..text import json_line

console = Console(stderr=True, highlight=False)

_mode = {"json": False, "debug": False, "emitted": False}
_programs: list[TextIO] = []
"""Where the object goes while stdout is kept free for it."""


def _set_json(value: bool) -> bool:
    _mode["json"] = value
    return value


JsonOption = Annotated[
    bool, typer.Option("--json", callback=_set_json, is_eager=True, help="Print one JSON object on stdout.")
]
"""A command's ``--json``, declared as ``json_: output.JsonOption = False`` and asked for by ``json_mode``."""


@contextmanager
def printing(arguments: Sequence[str]) -> Iterator[None]:
    """Print for a command with these arguments; with ``--json`` among them stdout gets one object and nothing else.

    What is printed there by others, such as the help, becomes the object's ``text`` when the command has no object.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    _mode.update(json="--json" in before, debug=False, emitted=False)
    if not json_mode():
        yield
        return
    stray = StringIO()
    _programs.append(sys.stdout)
    try:
        with redirect_stdout(stray):
            yield
        if not _mode["emitted"]:
            emit({"text": stray.getvalue()})
        elif stray.getvalue():
            sys.stderr.write(stray.getvalue())
    finally:
        _programs.pop()


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
    emit_object({"ok": True, **payload})


def emit_object(body: dict[str, Any]) -> None:
    """Print the one object of ``--json`` as it is."""
    _mode["emitted"] = True
    stream = _programs[-1] if _programs else sys.stdout
    stream.write(json_line(body, stream.encoding or "utf-8") + "\n")
    stream.flush()


def write_json(value: Any, indent: int | None = None) -> None:
    """Print a value itself on stdout, as JSON that its encoding can hold."""
    sys.stdout.write(json_line(value, sys.stdout.encoding or "utf-8", indent=indent) + "\n")


def say(line: str) -> None:
    """Tell people something; nobody is told with ``--json``, nor when the terminal is gone."""
    if not json_mode():
        with suppress(OSError):
            console.print(line, markup=False, soft_wrap=True)


def report_error(error: RylaError) -> None:
    """One line that says what failed and one with the next command; the JSON object instead with ``--json``."""
    if json_mode() and not _mode["emitted"]:
        emit_object({"ok": False, "error": error.as_dict()})
        return
    with suppress(OSError):
        console.print(f"[bold red]error[/] [dim]{error.code}[/]  ", end="")
        console.print(error.message, markup=False, soft_wrap=True)
        if error.hint:
            console.print("[bold]next[/]   ", end="")
            console.print(commands.spelled(error.hint), markup=False, soft_wrap=True)
