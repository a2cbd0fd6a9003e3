"""The engines that a gateway starts itself: which processes, with what arguments."""

from __future__ import annotations

import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..engines import embedded
from ..errors import RylaError
from ..settings import Settings
from .doctor import machine

if TYPE_CHECKING:
    from ..gateway.children import ChildSpec

_START_EMBEDDED = "from ryla_nodes.cli.app import main; main()"


def embedded_engine(settings: Settings) -> ChildSpec:
    """The embedded engine in a process of its own, so that its work never keeps the gateway from answering."""
    from ..gateway.children import ChildSpec

    embedded.require()
    settings.home.mkdir(parents=True, exist_ok=True)
    engine = ("engine", "--port", "{port}", "--home", str(settings.home))
    command = (sys.executable, "-c", _START_EMBEDDED, *engine)
    return ChildSpec("embedded", command, settings.home, inputs=settings.home / "input")


def comfyuis(comfyui: Path, python: Path | None, arguments: str, gpus: str, state: Path) -> list[ChildSpec]:
    """A ComfyUI for each GPU; one, on whatever it finds, without ``gpus``.

    Raises:
        RylaError: ``comfyui_start_failed`` for a folder that is none, ``gpu_missing``.
    """
    from ..gateway.children import ChildSpec
    from ..models.workspace import is_comfyui, python_of

    folder = comfyui.expanduser().absolute()
    if not is_comfyui(folder):
        raise RylaError("comfyui_start_failed", f"{folder} is not the folder of a ComfyUI.", path=str(folder))
    wanted = [part.strip() for part in gpus.split(",") if part.strip()]
    _require(wanted)
    inputs = input_folder(folder, shlex.split(arguments))
    children = []
    for gpu in wanted or [""]:
        name = f"comfyui-{gpu}" if gpu else "comfyui"
        # Two that write into one folder would give their pictures the same names.
        outputs = state / "engines" / name
        command = (
            str(python or python_of(folder)), "main.py", "--listen", "127.0.0.1", "--port", "{port}",
            "--disable-auto-launch", "--output-directory", str(outputs), *shlex.split(arguments),
        )  # fmt: skip
        variables = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        children.append(ChildSpec(name, command, folder, variables, inputs=inputs, outputs=outputs))
    return children


def _require(gpus: list[str]) -> None:
    """Refuse numbers that no GPU has, as far as nvidia-smi tells; where there is none, ComfyUI's own log will."""
    found = machine.gpus()
    absent = [gpu for gpu in gpus if found and gpu.isdigit() and int(gpu) >= len(found)]
    if absent:
        here = ", ".join(f"{number} ({gpu.name})" for number, gpu in enumerate(found))
        message = f"There is no GPU {', '.join(absent)} on this machine: it has {here}."
        raise RylaError("gpu_missing", message)


def input_folder(comfyui: Path, arguments: list[str]) -> Path:
    """Where a ComfyUI that is started with ``arguments`` keeps its uploads."""
    given = dict(pairwise(arguments))
    base = Path(given.get("--base-directory", comfyui))
    return comfyui / given.get("--input-directory", base / "input")
