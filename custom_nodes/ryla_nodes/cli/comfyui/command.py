"""``ryla comfyui``: get a ComfyUI that runs the pack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import RylaError
from ...models import workspace
from .. import output
from ..doctor import machine as doctor_machine
from . import install as installer

app = typer.Typer(no_args_is_help=True, help="Install a ComfyUI with the pack in it.")


@app.callback()
def _group() -> None:
    """Install a ComfyUI with the pack in it."""


@app.command()
def install(
    path: Annotated[Path | None, typer.Option(help="Where (else comfy-cli's workspace).")] = None,
    version: Annotated[str | None, typer.Option(help=f"A ComfyUI release, {installer.COMFYUI} by default.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="For machines without a GPU.")] = False,
    nvidia: Annotated[bool, typer.Option("--nvidia", help="For NVIDIA GPUs.")] = False,
    url: Annotated[str | None, typer.Option(help="A mirror: git URL or local path of ComfyUI.")] = None,
    venv: Annotated[Path | None, typer.Option(help="An existing virtual environment to install into.")] = None,
    json_: output.JsonOption = False,
) -> None:
    """Install ComfyUI by comfy-cli, then the pack and its packages; start it once to see that both work."""
    if cpu and nvidia:
        raise RylaError("invalid_parameter", "Give --cpu or --nvidia, not both.", hint="ryla comfyui install --help")
    device = "cpu" if cpu or not (nvidia or doctor_machine.gpus()) else "nvidia"
    folder = (path or workspace.discover() or workspace.standard_place()).expanduser().absolute()
    done = installer.install(
        installer.Wanted(folder, version, device, url, venv.expanduser().absolute() if venv else None),
        lambda line: output.console.print(line, markup=False, style="dim", soft_wrap=True),
    )
    output.console.print(f"ComfyUI {done.version} with the pack: {done.folder}", markup=False, soft_wrap=True)
    output.console.print(f"next   ryla models install flux-dev --comfyui {done.folder}", markup=False, soft_wrap=True)
    if output.json_mode():
        output.emit({"comfyui": done.folder, "version": done.version, "python": done.python, "pack": done.pack})
