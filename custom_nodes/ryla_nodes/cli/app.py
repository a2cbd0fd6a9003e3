"""The ``ryla`` program: composes the commands and turns a failure into a line, a hint and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from ..errors import RylaError
from . import engine, face, interrupt, loras, output, serve, workflows
from .accept import command as accept
from .comfyui import command as comfyui
from .deploy import command as deploy
from .doctor import command as doctor
from .models import command as models
from .ray_engines import ServeCommand
from .run import command as run
from .sheet import command as sheet

_CTRL_C = 130
# click's ClickException; newer versions of typer bring a click of their own.
_Usage: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(name="ryla", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        from ..version import NAME, version

        typer.echo(f"{NAME} {version()}")
        raise typer.Exit


@app.callback()
def _root(
    said_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", callback=output.set_debug, help="Show tracebacks.")] = False,
) -> None:
    """FLUX.1 Dev with consistent characters: run workflows, install and check models, manage LoRAs."""


app.command(cls=run.RunCommand)(run.run)
app.command(cls=run.RunCommand)(sheet.sheet)
app.command(cls=run.RunCommand)(accept.accept)
app.command()(doctor.doctor)
app.command()(engine.engine)
app.command(cls=ServeCommand)(serve.serve)
app.add_typer(workflows.app, name="workflows")
app.add_typer(models.app, name="models")
app.add_typer(loras.app, name="loras")
app.add_typer(face.app, name="face")
app.add_typer(comfyui.app, name="comfyui")
app.add_typer(deploy.app, name="deploy")


def main() -> None:
    """Entry point of ``ryla``. Exit status: see ``errors.ErrorCode``."""
    sys.excepthook = _unexpected
    with output.printing(sys.argv[1:]):
        status = _status()
    if status:
        sys.exit(status)


def _status() -> int:
    try:
        with interrupt.as_ctrl_c():
            # Calling ``app`` itself would put typer's own hook in the place of ours.
            return _ended(typer.main.get_command(app).main(standalone_mode=False))
    except RylaError as error:
        return _failed(error)
    except (typer.Abort, KeyboardInterrupt):
        return _failed(_stopped())
    except _Usage as error:
        return _misused(error)
    except BrokenPipeError:
        # The reader of our stdout went away (ryla ... | head): not a failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _ended(status: object) -> int:
    """The exit status of a command that returned; newer versions of typer return Ctrl-C's."""
    return _failed(_stopped()) if status == _CTRL_C else int(status) if isinstance(status, int) else 0


def _failed(error: RylaError) -> int:
    if output.debug():
        raise error
    output.report_error(error)
    return error.entry.exit_status


def _stopped() -> RylaError:
    return RylaError("cancelled", "Stopped before it was done.", hint="Run the same command again.")


def _misused(error: Any) -> int:
    """Arguments that the parser refuses: its own frame for people, our object for programs."""
    if output.json_mode():
        command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "ryla"
        output.report_error(RylaError("invalid_usage", error.format_message(), hint=f"{command} --help"))
    else:
        from typer import rich_utils  # a tenth of a second, with the Markdown that it imports

        rich_utils.rich_format_error(error)
    return int(error.exit_code)


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The last resort: also a fault of our own leaves one object, or one line."""
    if output.debug() or isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    where = traceback.extract_tb(trace)[-1:]
    place = f" ({Path(where[0].filename).name}, line {where[0].lineno})" if where else ""
    hint = "Run it again as ryla --debug ..., and report what it says."
    failure = RylaError("internal_error", f"A fault in ryla itself: {kind.__name__}: {error}{place}.", hint=hint)
    output.report_error(failure)
    sys.exit(failure.entry.exit_status)
