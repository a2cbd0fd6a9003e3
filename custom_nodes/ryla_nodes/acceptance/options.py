"""What an acceptance run is asked to measure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import RylaError
from ..settings import Settings
from ..workflows.workflow import Workflow

MOST_SAMPLES = 1000
AT_ONCE = 5
_PHOTO = "reference_image"
_HELP = "ryla accept --help"


@dataclass(frozen=True)
class Options:
    """One run.

    Attributes:
        workflows: in the order in which they are measured.
        prompts: of each workflow, by its name.
        given: parameters of the workflows as they were typed; each goes to those that have it.
        samples: pictures of each workflow.
        loras: ids for the workflows that need one.
        people: the usable references of each person: the workflows that take a photo go through them in turn.
        seed: the first picture's; the others count from it.
        out: the folder of the report.
        timeout: of a job, in seconds.
    """

    workflows: tuple[Workflow, ...]
    prompts: Mapping[str, tuple[str, ...]]
    given: Mapping[str, str]
    samples: int
    loras: tuple[str, ...]
    people: Mapping[str, tuple[Path, ...]]
    seed: int
    out: Path
    timeout: float
    settings: Settings

    def values(self, workflow: Workflow, number: int) -> dict[str, object]:
        """The parameters of sample ``number`` (from 1) of a workflow."""
        prompts = self.prompts[workflow.name]
        values: dict[str, object] = {name: text for name, text in self.given.items() if workflow.parameter(name)}
        values["prompt"] = prompts[(number - 1) % len(prompts)]
        values["seed"] = self.seed + number - 1
        if needs_lora(workflow) and self.loras:
            values["lora_id"] = self.loras[(number - 1) % len(self.loras)]
        if needs_photo(workflow) and self.people:
            values[_PHOTO] = str(self.people[self.person(number)][0])
        return values

    def person(self, number: int) -> str:
        """Whose photo sample ``number`` (from 1) gets."""
        names = list(self.people)
        return names[(number - 1) % len(names)]

    def digest(self) -> str:
        """What tells this run from one that was asked for something else: its journal is no other's."""
        told = {
            "workflows": [[workflow.name, workflow.graph] for workflow in self.workflows],
            "prompts": {name: list(texts) for name, texts in self.prompts.items()},
            "given": dict(self.given),
            "loras": list(self.loras),
            "seed": self.seed,
            "people": {name: [_state(path) for path in paths] for name, paths in self.people.items()},
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _state(path: Path) -> list[object]:
    return [path.name, path.stat().st_size]


def needs_lora(workflow: Workflow) -> bool:
    """Whether it makes no picture without a LoRA."""
    parameter = workflow.parameter("lora_id")
    return parameter is not None and parameter.required


def needs_photo(workflow: Workflow) -> bool:
    """Whether it takes the photo of a person."""
    return workflow.parameter(_PHOTO) is not None


def require_used(name: str, option: str, workflows: tuple[Workflow, ...], *, used: bool) -> None:
    """Refuse an option that none of the workflows would heed.

    Raises:
        RylaError: ``conflicting_options``.
    """
    if not used:
        names = ", ".join(workflow.name for workflow in workflows)
        raise RylaError("conflicting_options", f"None of {names} takes {name}, so {option} is for nothing.", hint=_HELP)


def require(samples: int, workflows: tuple[Workflow, ...], given: Mapping[str, str]) -> None:
    """Refuse what cannot be measured.

    Raises:
        RylaError: ``invalid_parameter``, ``conflicting_options``, ``unknown_parameter``.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        message = f"--samples is {samples}; it is 1 to {MOST_SAMPLES}."
        raise RylaError("invalid_parameter", message, hint=_HELP)
    for name in ("prompt", "seed", _PHOTO):
        if name in given:
            option = {"prompt": "--prompts FILE", "seed": "--first-seed", _PHOTO: "--references FOLDER"}[name]
            raise RylaError("conflicting_options", f"The samples differ in their {name}: give {option}.", hint=_HELP)
    for name in given:
        if not any(workflow.parameter(name) for workflow in workflows):
            names = ", ".join(workflow.name for workflow in workflows)
            message = f'None of {names} has a parameter "{name}".'
            raise RylaError("unknown_parameter", message, hint=_HELP, parameter=name)
