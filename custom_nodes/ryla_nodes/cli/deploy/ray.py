"""``ryla deploy ray``: the files for a Ray cluster of engines."""

from __future__ import annotations

import shlex
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from ...errors import RylaError
from ...files import write_whole
from ...version import version
from .. import output

_RAY = "2.60.0"


def ray(
    comfyui: Annotated[
        str, typer.Option(help="Folder of the ComfyUI on every node; the embedded engine without.", show_default=False)
    ] = "",
    comfyui_args: Annotated[str, typer.Option(help="Arguments for it, such as '--cpu'.")] = "",
    replicas: Annotated[str, typer.Option(help="How many engines: 2, or 0:8 by the length of the queue.")] = "1",
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs for each. Default: 1 for a ComfyUI.", show_default=False)
    ] = None,
    image: Annotated[str, typer.Option(help="Image of the pods, for KubeRay.")] = "ryla-ray:latest",
    gateways: Annotated[int, typer.Option(min=1, help="How many gateways, for KubeRay; several share Postgres.")] = 2,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("deploy/ray"),
    json_: output.JsonOption = False,
) -> None:
    """Write serve.yaml, for `serve deploy`, and rayservice.yaml, for KubeRay."""
    from ...gateway.cluster.manifests import Images, kuberay, serve_config, written
    from ...gateway.cluster.options import EngineOptions, replicas_of

    kind = "comfyui" if comfyui else "embedded"
    low, high = replicas_of(replicas)
    options = EngineOptions(
        kind=kind,
        version=version(),
        comfyui=comfyui,
        arguments=tuple(shlex.split(comfyui_args)),
        gpus=float(kind == "comfyui") if gpus is None else gpus,
        min_replicas=low,
        max_replicas=high,
    )
    files = {
        "serve.yaml": written(serve_config(options)),
        "rayservice.yaml": written(*kuberay(options, Images(image, _ray_version(), gateways=gateways))),
    }
    for name, text in files.items():
        _write(folder / name, text)
    serve_file = folder / "serve.yaml"
    output.say(f"{', '.join(str(folder / name) for name in files)} written.")
    output.say(f"next   serve deploy {serve_file}, then: ryla serve --ray auto")
    if output.json_mode():
        output.emit({"files": [str(folder / name) for name in files]})


def _ray_version() -> str:
    """Of the Ray that is installed here; the one that this was tried with where none is."""
    try:
        return metadata.version("ray")
    except metadata.PackageNotFoundError:
        return _RAY


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise RylaError("not_writable", f"{path} cannot be written: {error.strerror}.") from error
