"""``ryla accept``: what was promised, measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ... import settings
from .. import output
from ..run import command as run

WorkflowsArgument = Annotated[list[str] | None, typer.Argument(help="Workflows; all when none is named.")]
FolderOption = Annotated[Path, typer.Option("-o", "--output", help="Folder of the report and its pictures.")]
SamplesOption = Annotated[int, typer.Option(help="Pictures of each workflow.")]
ReferencesOption = Annotated[
    Path | None,
    typer.Option(help="Folder of photos, a sub-folder for each person. Default: drawn people.", show_default=False),
]
LorasOption = Annotated[
    list[str] | None, typer.Option("--lora-id", help="A LoRA for flux-lora; repeat it for several.", show_default=False)
]
PromptsOption = Annotated[
    str,
    typer.Option(help="A file with a prompt a line, or a shipped set. Default: the workflow's 24.", show_default=False),
]
FirstSeedOption = Annotated[
    int | None, typer.Option(min=0, help="Seed of the first sample; random unless given.", show_default=False)
]


def accept(
    ctx: typer.Context,
    workflows: WorkflowsArgument = None,
    out: FolderOption = Path("acceptance"),
    samples: SamplesOption = 24,
    references: ReferencesOption = None,
    lora_id: LorasOption = None,
    prompts: PromptsOption = "",
    first_seed: FirstSeedOption = None,
    server: run.ServerOption = None,
    gateway: run.GatewayOption = "",
    engine: run.EngineOption = None,
    timeout: run.TimeoutOption = run.DEFAULT_TIMEOUT,
    start_comfyui: run.StartOption = None,
    comfyui_python: run.PythonOption = None,
    comfyui_args: run.ArgumentsOption = "",
    json_: output.JsonOption = False,
) -> None:
    """Measure what was promised, and write report.md, report.html and report.json: ryla accept flux-dev sdxl-instantid

    Other options are parameters of the workflows, such as --steps 28. Exits 0 when every target is met, 5 when one is
    missed, 3 when something could not be measured. Run the same command again to go on where it stopped.
    """
    from ..run.engines import Choice
    from .conduct import Asked, conduct

    environment = settings.load()
    choice = Choice(tuple(server or ()), engine, start_comfyui, comfyui_python, comfyui_args, gateway)
    choice = replace(choice, gateway=choice.gateway_url(environment))
    asked = Asked(
        workflows=tuple(workflows or ()),
        given=ctx.obj,
        out=out,
        samples=samples,
        references=references,
        loras=tuple(lora_id or ()),
        prompts=prompts,
        first_seed=first_seed,
        timeout=timeout,
        settings=environment,
    )
    conduct(asked, choice)
