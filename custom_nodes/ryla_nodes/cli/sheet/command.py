"""``ryla sheet``: one person in several scenes on one sheet, the face score under each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ... import settings
from ...errors import RylaError
from .. import output
from ..run import command as run

SheetOutput = Annotated[
    Path, typer.Option("-o", "--output", help="The sheet; its pictures lie in a folder of its name.")
]
ScenesOption = Annotated[
    str, typer.Option(help="A file with a prompt a line, or a shipped set: scenes, scenes.drawn.", show_default=False)
]
WorkflowOption = Annotated[
    str, typer.Option(help="flux-instantid with a photo, else flux-lora, unless said.", show_default=False)
]


def sheet(
    ctx: typer.Context,
    out: SheetOutput = Path("sheet.png"),
    scenes: ScenesOption = "",
    workflow: WorkflowOption = "",
    server: run.ServerOption = None,
    gateway: run.GatewayOption = "",
    engine: run.EngineOption = None,
    timeout: run.TimeoutOption = run.DEFAULT_TIMEOUT,
    overwrite: run.OverwriteOption = False,
    start_comfyui: run.StartOption = None,
    comfyui_python: run.PythonOption = None,
    comfyui_args: run.ArgumentsOption = "",
    json_: output.JsonOption = False,
) -> None:
    """Show a person in eight scenes: ryla sheet --reference-image photo.jpg --lora-id 7 -o sheet.png

    The other options are parameters of the workflow, such as --best-of 4 or --steps 28. Run the same command again to
    go on where it stopped.
    """
    from ..run.engines import Choice
    from .scenes import Asked, make_sheet

    if "prompt" in ctx.obj:
        raise RylaError("conflicting_options", "A sheet has a prompt for each scene: give a file with --scenes.")
    environment = settings.load()
    choice = Choice(tuple(server or ()), engine, start_comfyui, comfyui_python, comfyui_args, gateway)
    choice = replace(choice, gateway=choice.gateway_url(environment))
    asked = Asked(workflow or _workflow_for(ctx.obj), ctx.obj, scenes, out, timeout, overwrite, environment)
    make_sheet(asked, choice, run.option_names(ctx.command))


def _workflow_for(given: Mapping[str, str]) -> str:
    if "reference_image" in given:
        return "flux-instantid"
    if "lora_id" in given or "lora_name" in given:
        return "flux-lora"
    hint = "ryla sheet --reference-image photo.jpg, or --lora-id 7"
    raise RylaError("missing_parameter", "A sheet shows a person: give a photo, a LoRA, or both.", hint=hint)
