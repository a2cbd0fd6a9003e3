"""``ryla run``: run a workflow and save its picture, or many of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import RylaError
from ..output import JsonOption
from .options import EngineKind, Request

DEFAULT_TIMEOUT = 1800.0


def run(
    ctx: typer.Context,
    workflow: Annotated[str, typer.Argument(help="Workflow; ryla workflows list names them.", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="File of the picture. For many: a folder, or a template such as out/{index:04}-{seed}.jpg.",
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        list[str] | None, typer.Option(help="Base URL of an engine; repeat it for several.", show_default=False)
    ] = None,
    engine: Annotated[
        EngineKind | None, typer.Option(help="Use a ComfyUI, or the embedded engine.", show_default=False)
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a job may take; it is then cancelled on its engine.")
    ] = DEFAULT_TIMEOUT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the bound graph and run nothing.")] = False,
    count: Annotated[int, typer.Option(min=1, help="How many pictures, each with another seed.")] = 1,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 1,2,3: a picture each.", show_default=False)] = None,
    batch: Annotated[
        Path | None,
        typer.Option(help="A .csv or .jsonl file: a job a row, columns are parameters.", show_default=False),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Where a batch writes what became of each job Default: results.jsonl beside the pictures.."),
    ] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(help="A PNG with all pictures of the batch.", show_default=False)
    ] = None,
    start_comfyui: Annotated[
        Path | None, typer.Option(help="Folder of a ComfyUI to start for this command.", show_default=False)
    ] = None,
    comfyui_python: Annotated[
        Path | None, typer.Option(help="The Python for --start-comfyui Default: its own environment's..")
    ] = None,
    comfyui_args: Annotated[str, typer.Option(help="Arguments for --start-comfyui, such as '--cpu'.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Run a workflow. Each of its parameters is an option: ryla run flux-dev --prompt "a red fox" --steps 20 -o fox.jpg

    ryla run NAME --help lists them. Without --server: RYLA_SERVER, else a ComfyUI on this machine's port 8188, else the
    embedded engine.
    """
    from .engines import Choice
    from .many import run_many
    from .one import run_one

    if count > 1 and seeds:
        raise RylaError("conflicting_options", "--count picks seeds by itself: give either --count or --seeds.")
    request = Request(workflow, ctx.obj, out, timeout, dry_run, count, seeds, batch, results, contact_sheet)
    choice = Choice(tuple(server or ()), engine, start_comfyui, comfyui_python, comfyui_args)
    (run_many if request.many else run_one)(request, choice)
