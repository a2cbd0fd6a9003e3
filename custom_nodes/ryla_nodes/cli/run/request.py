"""What ``ryla run`` was asked, and where its pictures go: a suffix decides the format where the workflow lets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ...batch import naming
from ...errors import RylaError
from ...settings import Settings
from ...workflows.parameter import Parameter
from ...workflows.workflow import BoundPrompt, Workflow


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
        results: the journal; None: ``results.jsonl`` beside the pictures.
        overwrite: let a batch replace files that its rows did not make.
    """

    workflow: Workflow
    settings: Settings
    given: Mapping[str, str]
    output: str | None
    timeout: float
    dry_run: bool
    count: int
    seeds: str | None
    batch: Path | None
    results: Path | None
    contact_sheet: Path | None
    overwrite: bool = False

    @property
    def many(self) -> bool:
        """Whether it is a batch: with a journal, and names from a template."""
        return self.count > 1 or bool(self.seeds or self.batch or self.results or self.contact_sheet)


def with_format(workflow: Workflow, given: Mapping[str, object], template: str) -> dict[str, object]:
    """``given``, and the format that the suffix of ``template`` asks for where the output node can make it.

    Raises:
        RylaError: ``conflicting_options`` when a format was given that the suffix contradicts.
    """
    # Only a run needs the client; ``ryla --help`` does not.
    from ...client.results import SUFFIXES

    parameter = _format_parameter(workflow)
    kind = SUFFIXES.get(Path(template).suffix.lower())
    # The choices of an output node are named as the formats are.
    choice = kind.name.lower() if kind else ""
    if parameter is None or choice not in parameter.choices:
        return dict(given)
    spelling = next((name for name in (parameter.name, *parameter.aliases) if name in given), None)
    if spelling is None:
        return {**given, parameter.name: choice}
    if given[spelling] in parameter.choices and given[spelling] != choice:
        message = f"--{spelling} {given[spelling]} and the suffix of {template} contradict each other."
        raise RylaError("conflicting_options", message, hint=f"Leave --{spelling} out: the suffix decides.")
    return dict(given)


def _format_parameter(workflow: Workflow) -> Parameter | None:
    outputs = {output.node_id for output in workflow.outputs}
    for parameter in workflow.parameters:
        bound = any(binding.node_id in outputs and binding.input == "format" for binding in parameter.bindings)
        if bound and parameter.type == "enum":
            return parameter
    return None


def template_of_one(output: str | None, workflow: Workflow) -> str:
    """The template of a single picture's path."""
    template = output or "{workflow}-{seed}"
    naming.check(template, [parameter.name for parameter in workflow.parameters])
    return template


def template_of_many(output: str | None, workflow: Workflow) -> str:
    """The template of many pictures' paths; a folder gets a usual one below it.

    Raises:
        RylaError: ``invalid_output_path`` for one name for many pictures.
    """
    template = output or ""
    if not template or template.endswith(("/", "\\")) or Path(template).is_dir():
        template = str(Path(template) / "{workflow}-{index:04}-{seed}")
    if not naming.fields(template):
        message = f"-o {template} is one name for many pictures."
        hint = f"Give a folder, or a template such as {Path(template).stem}-{{index:03}}{Path(template).suffix}"
        raise RylaError("invalid_output_path", message, hint=hint)
    naming.check(template, [parameter.name for parameter in workflow.parameters])
    return template


def path_of(template: str, prompt: BoundPrompt, *, index: int = 1, row: int = 0) -> Path:
    """The path of one picture."""
    own = {
        "index": index,
        "row": row,
        "workflow": prompt.workflow,
        "seed": prompt.seed if prompt.seed is not None else 0,
    }
    return Path(naming.fill(template, {**prompt.parameters, **own})).expanduser()
