"""What ``ryla run`` was asked, in one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class EngineKind(str, Enum):
    """What ``--engine`` takes."""

    COMFYUI = "comfyui"
    EMBEDDED = "embedded"


@dataclass(frozen=True)
class Request:
    """One command.

    Attributes:
        given: the workflow's parameters as they were typed.
        output: the path or the template of the pictures' paths; None: a name in the current folder.
        count, seeds, batch: how many jobs, and which.
        results: the manifest; None: ``results.jsonl`` beside the pictures.
    """

    workflow: str
    given: Mapping[str, str]
    output: str | None
    timeout: float
    dry_run: bool
    count: int
    seeds: str | None
    batch: Path | None
    results: Path | None
    contact_sheet: Path | None

    @property
    def many(self) -> bool:
        """Whether it is a batch: with a manifest, and names from a template."""
        return self.count > 1 or bool(self.seeds or self.batch or self.results or self.contact_sheet)
