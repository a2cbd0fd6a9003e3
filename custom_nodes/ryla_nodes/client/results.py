"""What a job gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RylaError
from .actions import State
from .pictures import Picture
from .saving import save


@dataclass(frozen=True)
class Timings:
    """Seconds. ``execution`` is the engine's own figure (None when it gives none); the others are measured here.

    Attributes:
        queued: from the engine's acceptance to the first sign that it works on the job.
        total: everything, uploads and downloads included.
    """

    queued: float
    execution: float | None
    total: float


@dataclass(frozen=True)
class Result:
    """How a job ended, and what it made.

    Attributes:
        error: why it did not succeed; None when it did.
        workflow: the workflow's name.
        parameters: every effective parameter, the seed included.
        server, prompt_id: where it ran, and the engine's name for it ("" when it never got so far).
        pictures: the declared outputs, in the manifest's order.
        outputs: node id -> what each output node reported to the engine, pictures or not.
        cached: the engine did not run the output node again: the picture is of an earlier job.
        attempts: how often it was given to an engine; more than 1 after a retry.
    """

    state: State
    error: RylaError | None
    workflow: str
    parameters: Mapping[str, Any]
    seed: int | None
    server: str
    prompt_id: str
    pictures: tuple[Picture, ...]
    outputs: Mapping[str, Mapping[str, Any]]
    timings: Timings
    cached: bool = False
    attempts: int = 1
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.state is State.SUCCEEDED

    def required(self) -> Result:
        """Itself when it succeeded.

        Raises:
            RylaError: its error when it did not.
        """
        if self.error is not None:
            raise self.error
        return self

    def save(self, path: str | Path) -> list[Path]:
        """Write the pictures: the first to ``path``, others beside it as ``name-2.jpg`` ...; all or none of a file.

        Raises:
            RylaError: ``invalid_output_path``, ``output_folder_missing``, ``output_not_writable``, ``disk_full``.
        """
        return save(self.required().pictures, Path(path))
