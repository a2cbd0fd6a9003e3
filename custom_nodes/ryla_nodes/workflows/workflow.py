"""A workflow, and from values of its parameters to a graph that an engine can run."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from ..errors import RylaError, sentence
from ..similar import nearest
from . import best_of as several
from .graph import Graph
from .parameter import BadValue, Parameter, Value, coerce

OutputKind = Literal["image", "similarity"]
OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)
SEED_BOUND = 2**63


@dataclass(frozen=True)
class Output:
    """A node whose result the workflow declares as its own."""

    title: str
    node_id: str
    kind: OutputKind


@dataclass(frozen=True)
class Workflow:
    """A loaded and checked workflow. ``graph`` is shared: ``bind`` copies it, nothing may change it."""

    name: str
    title: str
    summary: str
    models: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    outputs: tuple[Output, ...]
    graph: Graph

    def parameter(self, name: str) -> Parameter | None:
        """The parameter with this name or alias."""
        return next((p for p in self.parameters if name == p.name or name in p.aliases), None)


@dataclass(frozen=True)
class Upload:
    """A local picture that ``input`` of node ``node_id`` needs on the engine.

    ``sha256``: of the bytes that are meant; "" for those that ``path`` has when it is uploaded.
    """

    node_id: str
    input: str
    path: Path
    sha256: str = ""


@dataclass(frozen=True)
class BoundPrompt:
    """A graph of its own with every parameter set.

    ``parameters`` holds every effective value, the seed included; ``outputs`` those declared outputs that are pictures;
    ``wants`` what the job keeps loaded on its engine: workflow, models, LoRAs; ``score`` the node that reports a face
    score, "" without one; ``best_of`` is set when the best of several pictures is wanted.
    """

    workflow: str
    graph: Graph
    parameters: dict[str, Value]
    seed: int | None
    uploads: tuple[Upload, ...]
    outputs: tuple[Output, ...]
    wants: frozenset[str] = frozenset()
    score: str = ""
    best_of: several.BestOf | None = None

    def with_image(self, node_id: str, input_name: str, uploaded_name: str) -> BoundPrompt:
        """The same prompt with one upload done: the engine knows the picture as ``uploaded_name``."""
        graph = copy.deepcopy(self.graph)
        graph[node_id]["inputs"][input_name] = uploaded_name
        uploads = tuple(upload for upload in self.uploads if (upload.node_id, upload.input) != (node_id, input_name))
        return replace(self, graph=graph, uploads=uploads)

    def candidates(self) -> tuple[BoundPrompt, ...]:
        """The prompts of the pictures from which the best is taken; itself alone when one is wanted."""
        chosen = self.best_of
        return (self,) if chosen is None else tuple(self._candidate(chosen, seed) for seed in chosen.seeds)

    def _candidate(self, chosen: several.BestOf, seed: int) -> BoundPrompt:
        graph = copy.deepcopy(self.graph)
        for node_id, name in chosen.places:
            graph[node_id]["inputs"][name] = seed
        return replace(self, graph=graph, seed=seed, best_of=None)


@dataclass(frozen=True)
class _Issue:
    parameter: str
    code: str
    message: str
    facts: dict[str, Any]


def bind(
    workflow: Workflow,
    values: Mapping[str, object],
    *,
    seed_source: Callable[[int], int] = secrets.randbelow,
) -> BoundPrompt:
    """Check ``values`` against the workflow's parameters and set them in a copy of its graph.

    Args:
        values: by name or alias; CLI strings are read as the parameter's type; None stands for "not given".
        seed_source: called with ``2**63`` for the seed when none is given.

    Raises:
        RylaError: ``unknown_parameter``, ``missing_parameter`` or ``invalid_parameter`` for the first fault; unknown
            names come first, the rest in the manifest's order. ``details["problems"]`` lists every fault.
    """
    given, issues = _by_parameter(workflow, {name: value for name, value in values.items() if value is not None})
    effective: dict[str, Value] = {}
    for parameter in workflow.parameters:
        try:
            effective[parameter.name] = _value(parameter, given, seed_source)
        except BadValue as error:
            code = "missing_parameter" if parameter.name not in given else "invalid_parameter"
            issues.append(_Issue(parameter.name, code, str(error), error.facts))
    if issues:
        _refuse(workflow, issues)
    return _bound(workflow, effective)


def _by_parameter(workflow: Workflow, values: dict[str, object]) -> tuple[dict[str, object], list[_Issue]]:
    given: dict[str, object] = {}
    spelled: dict[str, str] = {}
    issues: list[_Issue] = []
    for name, value in values.items():
        parameter = workflow.parameter(name)
        if parameter is None:
            issues.append(_unknown(workflow, name))
        elif parameter.name in given:
            message = f"{parameter.name} is given twice: as {spelled[parameter.name]} and as {name}"
            issues.append(_Issue(parameter.name, "invalid_parameter", message, {}))
        else:
            given[parameter.name] = value
            spelled[parameter.name] = name
    return given, sorted(issues, key=lambda issue: issue.code != "unknown_parameter")


def _unknown(workflow: Workflow, name: str) -> _Issue:
    spellings = {spelling: p.name for p in workflow.parameters for spelling in (p.name, *p.aliases)}
    near = nearest(name, spellings)
    real = spellings[near] if near else None
    suggestion = f'did you mean "{real}"?' if real else f"it has {', '.join(p.name for p in workflow.parameters)}"
    message = f'{workflow.name} has no parameter "{name}": {suggestion}'
    return _Issue(name, "unknown_parameter", message, {"nearest": [real] if real else []})


def _value(parameter: Parameter, given: dict[str, object], seed_source: Callable[[int], int]) -> Value:
    if parameter.name in given:
        return coerce(parameter, given[parameter.name])
    if parameter.type == "seed":
        return seed_source(SEED_BOUND)
    if parameter.default is None:
        raise BadValue(f"{parameter.name} is required: {parameter.help}")
    return parameter.default


def _bound(workflow: Workflow, effective: dict[str, Value]) -> BoundPrompt:
    graph = copy.deepcopy(workflow.graph)
    uploads: list[Upload] = []
    for parameter in workflow.parameters:
        value = effective[parameter.name]
        for binding in parameter.bindings:
            if parameter.type == "image":
                uploads.append(Upload(binding.node_id, binding.input, Path(str(value))))
                graph[binding.node_id]["inputs"][binding.input] = Path(str(value)).name
            else:
                graph[binding.node_id]["inputs"][binding.input] = value
    pictures = tuple(output for output in workflow.outputs if output.kind == "image")
    seeded = next((parameter for parameter in workflow.parameters if parameter.type == "seed"), None)
    score = next((output.node_id for output in workflow.outputs if output.kind == "similarity"), "")
    return BoundPrompt(
        workflow.name,
        graph,
        effective,
        int(effective[seeded.name]) if seeded else None,
        tuple(uploads),
        pictures,
        _wants(workflow, effective),
        score,
        _best_of(workflow, seeded, score, effective),
    )


def _best_of(
    workflow: Workflow, seeded: Parameter | None, score: str, effective: Mapping[str, Value]
) -> several.BestOf | None:
    parameter = workflow.parameter(several.NAME)
    # A gateway's has a place in the request: the gateway itself chooses.
    if parameter is None or parameter.bindings or seeded is None:
        return None
    count, first = int(effective[parameter.name]), int(effective[seeded.name])
    if count == 1:
        return None
    low, high = int(seeded.min or 0), int(seeded.max if seeded.max is not None else SEED_BOUND - 1)
    places = tuple((binding.node_id, binding.input) for binding in seeded.bindings)
    return several.BestOf(score, several.seeds(first, count, low, high), places)


def _wants(workflow: Workflow, effective: Mapping[str, Value]) -> frozenset[str]:
    names = [parameter.name for parameter in workflow.parameters if parameter.type == "lora"]
    loras = (f"lora:{effective[name]}" for name in names if effective[name])
    return frozenset({f"workflow:{workflow.name}", *(f"model:{model}" for model in workflow.models), *loras})


def _refuse(workflow: Workflow, issues: list[_Issue]) -> NoReturn:
    first = issues[0]
    message = sentence(first.message, len(issues) - 1)
    hint = f"ryla workflows show {workflow.name}"
    problems = [asdict(issue) for issue in issues]
    if first.code == "unknown_parameter":
        raise RylaError("unknown_parameter", message, hint=hint, workflow=workflow.name, problems=problems)
    if first.code == "missing_parameter":
        raise RylaError("missing_parameter", message, hint=hint, workflow=workflow.name, problems=problems)
    raise RylaError("invalid_parameter", message, hint=hint, workflow=workflow.name, problems=problems)
