"""The engine of one replica: a process on loopback, with a folder of its own for what it takes in and puts out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import settings as environment
from ...client.api import DIGITS, UPLOADS
from ...client.comfyui_process import ComfyUIProcess, EmbeddedProcess
from ...client.engine_process import EngineProcess
from ...errors import RylaError
from ...models.workspace import python_of
from .options import EngineOptions

_PREFIX = "ryla-replica-"


class CommandProcess(EngineProcess):
    """Any program that speaks ComfyUI's API, as a child process."""

    def __init__(self, folder: Path, words: Sequence[str], *, ready_within: float) -> None:
        super().__init__(f"The engine {words[0]}", folder, ready_within=ready_within)
        self._words = tuple(words)

    def command(self, port: int) -> list[str]:
        places = {"{port}": str(port), "{folder}": str(self._folder)}
        return [_filled(word, places) for word in self._words]


@dataclass(frozen=True)
class Place:
    """The folder of a replica."""

    folder: Path

    @classmethod
    def new(cls) -> Place:
        """One of its own; those that replicas left which were killed are deleted."""
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            pid = path.name.removeprefix(_PREFIX).partition("-")[0]
            if pid.isdecimal() and not _runs(int(pid)):
                shutil.rmtree(path, ignore_errors=True)
        place = cls(Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")))
        for path in (place.uploads, place.inputs, place.outputs):
            path.mkdir()
        return place

    def remove(self) -> None:
        """Delete it with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def uploads(self) -> Path:
        """Where the pictures of jobs lie before they are given to the engine."""
        return self.folder / "photos"

    @property
    def inputs(self) -> Path:
        return self.folder / "input"

    @property
    def outputs(self) -> Path:
        return self.folder / "output"

    def forget(self, prompt_id: str, digests: Sequence[str]) -> None:
        """Delete a job's photos, and the engine's copies of those with these SHA-256 digests."""
        for path in self.uploads.glob(f"{prompt_id}-*"):
            path.unlink(missing_ok=True)
        for digest in digests:
            for path in (self.inputs / UPLOADS).glob(f"{digest[:DIGITS]}*"):
                path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def process_of(options: EngineOptions, place: Place) -> EngineProcess:
    """The engine that a replica with these options supervises, not yet started.

    Raises:
        RylaError: ``comfyui_start_failed``: there is no ComfyUI where the options say.
    """
    if options.kind == "comfyui":
        return _comfyui(options, place)
    if options.kind == "command":
        return CommandProcess(place.folder, options.command, ready_within=options.ready_within)
    models = environment.load().home / "models"
    if models.is_dir() and not (place.folder / "models").exists():
        (place.folder / "models").symlink_to(models, target_is_directory=True)
    return EmbeddedProcess(place.folder, ready_within=options.ready_within)


def _comfyui(options: EngineOptions, place: Place) -> ComfyUIProcess:
    folder = Path(options.comfyui)
    own = ("--output-directory", str(place.outputs), "--input-directory", str(place.inputs))
    return ComfyUIProcess(
        folder,
        Path(options.python) if options.python else python_of(folder),
        arguments=(*own, *options.arguments),
        ready_within=options.ready_within,
    )


def _filled(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def require_gpu(options: EngineOptions, gpu: str, node: str) -> None:
    """Refuse an engine on the CPU where a GPU was asked for.

    Raises:
        RylaError: ``gpu_missing``.
    """
    if options.gpus and gpu == "CPU":
        message = f"A replica on the node {node} was promised a GPU, and its engine found none: it runs on the CPU."
        raise RylaError("gpu_missing", message)
