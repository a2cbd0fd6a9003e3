"""The command line of ``ryla run``: our own options, and one option for each parameter of the workflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from ... import settings
from ...errors import RylaError
from ...similar import nearest
from ...workflows.library import load
from ...workflows.parameter import Parameter
from ...workflows.workflow import Workflow
from .. import output

_BARE = ("-h", "--help", "--debug")
OWN = ("output", "server", "engine", "timeout", "dry_run", "count", "seeds", "batch", "results", "contact_sheet",
       "start_comfyui", "comfyui_python", "comfyui_args", "json")  # fmt: skip


class RunCommand(TyperCommand):
    """Takes the workflow's parameters out of the arguments before the parser sees them.

    So a value may be anything (``--prompt -o``), and an unknown name is told from the real ones. What was given is in
    ``ctx.obj``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own, given = split(args, _own_options(self.params))
        ctx.obj = given
        if any(arg in ("-h", "--help") for arg in own):
            _help(ctx, own)
        return list(super().parse_args(ctx, own))


def _own_options(params: Sequence[Any]) -> dict[str, bool]:
    """Each of our own option names, and whether a value follows it."""
    own = {
        name: not getattr(param, "is_flag", False) for param in params for name in (*param.opts, *param.secondary_opts)
    }
    return {name: value for name, value in own.items() if name.startswith("-")} | dict.fromkeys(_BARE, False)


def split(args: Sequence[str], own: dict[str, bool]) -> tuple[list[str], dict[str, str]]:
    """Our own arguments, and the others by name (``-`` read as ``_``). A name without a value means ``true``.

    Raises:
        RylaError: ``invalid_parameter`` for a name that is given twice.
    """
    ours: list[str] = []
    given: dict[str, str] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in own or not word.startswith("--") or word == "--":
            ours.append(word)
            if own.get(name) and not equals and rest:
                ours.append(rest.pop(0))
            continue
        if not equals:
            value = rest.pop(0) if rest and not _is_option(rest[0], own) else "true"
        key = name[2:].replace("-", "_")
        if key in given:
            raise RylaError("invalid_parameter", f"--{name[2:]} is given twice.", parameter=key)
        given[key] = value
    return ours, given


def _is_option(word: str, own: dict[str, bool]) -> bool:
    """Whether a word after a parameter's name begins the next option and is no value."""
    if word.partition("=")[0] in own:
        return True
    return word.startswith("--") and " " not in word and len(word) > 2


def refuse_misspelt(workflow: Workflow, given: Mapping[str, object]) -> None:
    """Refuse a name that is no parameter and looks like one of our own options more than like a parameter.

    Raises:
        RylaError: ``unknown_parameter`` with that option.
    """
    known = [spelling for parameter in workflow.parameters for spelling in (parameter.name, *parameter.aliases)]
    for name in given:
        if name in known or nearest(name, known) is not None:
            continue
        near = nearest(name, OWN)
        if near is not None:
            message = f'{workflow.name} has no parameter "{name}": did you mean the option --{near.replace("_", "-")}?'
            hint = f"ryla run {workflow.name} --help"
            raise RylaError("unknown_parameter", message, hint=hint, parameter=name, nearest=[near])


def _help(ctx: Any, own: Sequence[str]) -> None:
    """``ryla run NAME --help``: the options, then the workflow's parameters."""
    typer.echo(ctx.get_help())
    name = next((arg for arg in own if not arg.startswith("-")), None)
    if name is not None:
        workflow = load(name, settings.load())
        output.console.print(Text.assemble("\nParameters of ", (workflow.name, "bold"), f": {workflow.summary}"))
        output.console.print(_table(workflow.parameters))
    raise typer.Exit


def _table(parameters: Sequence[Parameter]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for parameter in parameters:
        default = (
            "required" if parameter.required else "random" if parameter.type == "seed" else repr(parameter.default)
        )
        option = f"--{parameter.name.replace('_', '-')}"
        table.add_row(Text(f"  {option}", "cyan"), Text(parameter.type), Text(default, "dim"), Text(parameter.help))
    return table
