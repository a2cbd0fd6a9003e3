"""The ``ryla`` program: composes the commands and turns a failure into a line, a hint and an exit status."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ..errors import RylaError
from . import engine, face, loras, output, workflows
from .comfyui import command as comfyui
from .doctor import command as doctor
from .models import command as models
from .run import command as run

app = typer.Typer(name="ryla", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", callback=output.set_debug, help="Show tracebacks.")] = False,
) -> None:
    """FLUX.1 Dev with consistent characters: run workflows, install and check models, manage LoRAs."""


app.command(cls=run.RunCommand)(run.run)
app.command()(doctor.doctor)
app.command()(engine.engine)
app.add_typer(workflows.app, name="workflows")
app.add_typer(models.app, name="models")
app.add_typer(loras.app, name="loras")
app.add_typer(face.app, name="face")
app.add_typer(comfyui.app, name="comfyui")


def main() -> None:
    """Entry point of ``ryla``. Exit status: see ``errors.ErrorCode``."""
    try:
        app()
    except RylaError as error:
        if output.debug():
            raise
        output.report_error(error)
        sys.exit(error.entry.exit_status)
    except BrokenPipeError:
        # The reader of our stdout went away (ryla ... | head): not a failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
