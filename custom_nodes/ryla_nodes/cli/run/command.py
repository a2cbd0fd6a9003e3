"""``ryla run``: run a workflow and save its picture, or many of them.

The command has our own options, and one option for each parameter of the workflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from ... import settings
from ...errors import RylaError
from ...similar import nearest
from ...workflows.manifest import load
from ...workflows.parameter import Parameter
from ...workflows.workflow import Workflow
from .. import output
from .request import EngineKind, Request

if TYPE_CHECKING:
    from .engines import Choice

DEFAULT_TIMEOUT = 1800.0
_BARE = ("-h", "--help", "--debug")


class RunCommand(TyperCommand):
    """Takes the workflow's parameters out of the arguments before the parser sees them.

    So a value may be anything (``--prompt -o``), and an unknown name is told from the real ones. What was given is in
    ``ctx.obj``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = _own_options(self.params)
        own, given = split(args, options)
        ctx.obj = given
        if any(arg in ("-h", "--help") for arg in own):
            _help(ctx, _values(own, options))
        return list(super().parse_args(ctx, own))


def _own_options(params: Sequence[Any]) -> dict[str, bool]:
    """Each of our own option names, and whether a value follows it."""
    own = {
        name: not getattr(param, "is_flag", False) for param in params for name in (*param.opts, *param.secondary_opts)
    }
    return {name: value for name, value in own.items() if name.startswith("-")} | dict.fromkeys(_BARE, False)


def option_names(command: Any) -> tuple[str, ...]:
    """The names of a command's long options, written as a parameter's: ``dry_run`` for ``--dry-run``."""
    spellings = (name for param in command.params for name in param.opts)
    return tuple(name[2:].replace("-", "_") for name in spellings if name.startswith("--"))


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
            raise RylaError("invalid_parameter", f"--{name[2:]} is given twice.", hint="Give it once.", parameter=key)
        given[key] = value
    return ours, given


def _is_option(word: str, own: dict[str, bool]) -> bool:
    """Whether a word after a parameter's name begins the next option and is no value."""
    if word.partition("=")[0] in own:
        return True
    return word.startswith("--") and " " not in word and len(word) > 2


def refuse_misspelt(workflow: Workflow, given: Mapping[str, object], options: Sequence[str]) -> None:
    """Refuse a name that is no parameter and looks like one of our own ``options`` more than like a parameter.

    Raises:
        RylaError: ``unknown_parameter`` with that option.
    """
    known = [spelling for parameter in workflow.parameters for spelling in (parameter.name, *parameter.aliases)]
    for name in given:
        if name in known or nearest(name, known) is not None:
            continue
        near = nearest(name, options)
        if near is not None:
            message = f'{workflow.name} has no parameter "{name}": did you mean the option --{near.replace("_", "-")}?'
            hint = f"ryla run {workflow.name} --help"
            raise RylaError("unknown_parameter", message, hint=hint, parameter=name, nearest=[near])


def workflow_at(choice: Choice, name: str, environment: settings.Settings, *, named: bool = True) -> Workflow:
    """The workflow as the gateway declares it, or as it is here where there are engines.

    Args:
        named: the gateway was named on the command line; if not it is said.

    Raises:
        RylaError: ``unknown_workflow``, ``invalid_workflow``, and what asking a gateway raises.
    """
    if not choice.gateway:
        return load(name, environment)
    from .gateway import workflow_of

    return workflow_of(choice.gateway, name, environment, named=named)


def _values(own: Sequence[str], options: Mapping[str, bool]) -> dict[str, str]:
    """The value of each of our own options that has one, by its name; under "" the first argument that is none."""
    found: dict[str, str] = {}
    words = list(own)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("-"):
            found.setdefault("", name)
        elif options.get(name):
            found[name] = value if equals or not words else words.pop(0)
    return found


def _help(ctx: Any, values: Mapping[str, str]) -> None:
    """``ryla run NAME --help``: the options, then the workflow's parameters."""
    from .gateway import workflow_of

    typer.echo(ctx.get_help())
    name, url, environment = values.get(""), values.get("--gateway"), settings.load()
    if name is not None:
        workflow = workflow_of(url, name, environment, named=True) if url else load(name, environment)
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


WorkflowArgument = Annotated[str, typer.Argument(help="Workflow; ryla workflows list names them.", show_default=False)]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        help="File of the picture. For many: a folder, or a template such as out/{index:04}-{seed}.jpg.",
        show_default=False,
    ),
]
ServerOption = Annotated[
    list[str] | None, typer.Option(help="Base URL of an engine; repeat it for several.", show_default=False)
]
GatewayOption = Annotated[
    str, typer.Option(help="Base URL of a gateway (ryla serve) to use instead of engines.", show_default=False)
]
EngineOption = Annotated[
    EngineKind | None, typer.Option(help="Use a ComfyUI, or the embedded engine.", show_default=False)
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, help="Seconds that a job may take; it is then cancelled on its engine.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the bound graph and run nothing.")]
CountOption = Annotated[int, typer.Option(min=1, help="How many pictures, each with another seed.")]
SeedsOption = Annotated[str | None, typer.Option(help="Seeds, such as 1,2,3: a picture each.", show_default=False)]
BatchOption = Annotated[
    Path | None, typer.Option(help="A .csv or .jsonl file: a job a row, columns are parameters.", show_default=False)
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(
        help="Where a batch writes what became of each job (else results.jsonl beside the pictures).",
        show_default=False,
    ),
]
SheetOption = Annotated[Path | None, typer.Option(help="A PNG with all pictures of the batch.", show_default=False)]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Let a batch replace files that its rows did not make.")
]
StartOption = Annotated[
    Path | None, typer.Option(help="Folder of a ComfyUI to start for this command.", show_default=False)
]
PythonOption = Annotated[
    Path | None, typer.Option(help="The Python for --start-comfyui (else its own environment's).", show_default=False)
]
ArgumentsOption = Annotated[str, typer.Option(help="Arguments for --start-comfyui, such as '--cpu'.")]


def run(
    ctx: typer.Context,
    workflow: WorkflowArgument,
    out: OutputOption = None,
    server: ServerOption = None,
    gateway: GatewayOption = "",
    engine: EngineOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    dry_run: DryRunOption = False,
    count: CountOption = 1,
    seeds: SeedsOption = None,
    batch: BatchOption = None,
    results: ResultsOption = None,
    contact_sheet: SheetOption = None,
    overwrite: OverwriteOption = False,
    start_comfyui: StartOption = None,
    comfyui_python: PythonOption = None,
    comfyui_args: ArgumentsOption = "",
    json_: output.JsonOption = False,
) -> None:
    """Run a workflow. Each of its parameters is an option: ryla run flux-dev --prompt "a red fox" --steps 20 -o fox.jpg

    ryla run NAME --help lists them.

    Without --server and --gateway: RYLA_GATEWAY, else RYLA_SERVER, else a ComfyUI on this machine's port 8188, else the
    embedded engine.
    """
    from .engines import Choice

    if count > 1 and seeds:
        raise RylaError("conflicting_options", "--count picks seeds by itself: give either --count or --seeds.")
    environment = settings.load()
    choice = Choice(tuple(server or ()), engine, start_comfyui, comfyui_python, comfyui_args, gateway)
    url = choice.gateway_url(environment)
    loaded = workflow_at(replace(choice, gateway=url), workflow, environment, named=bool(gateway))
    refuse_misspelt(loaded, ctx.obj, option_names(ctx.command))
    request = Request(
        loaded, environment, ctx.obj, out, timeout, dry_run, count, seeds, batch, results, contact_sheet, overwrite
    )
    choice = replace(choice, gateway=url)
    if request.many:
        from .many import run_many

        run_many(request, choice)
    else:
        from .one import run_one

        run_one(request, choice)
