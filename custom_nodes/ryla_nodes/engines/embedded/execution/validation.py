"""Whether a graph can run, and the errors that say why not: the checks and JSON shapes of ComfyUI 0.33.0.

The time is about linear in the size of the graph, and so is the answer; a chain may be as long as it likes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from .calls import Problem, Reporter, full_type_name, problem_of, shown
from .graph import Graph
from .registry import Declaration, Registry, Spec, config_of, constant_problem, custom_problems, link_types_match

_Link = tuple[str, Spec, list[Any]]
"""A linked input: its name, its type and options, and the link."""

log = logging.getLogger(__name__)

MOST_TOLD = 100
"""As many bad nodes, outputs of one and nodes of a cycle are told; ten times the work would help nobody."""


@dataclass(frozen=True)
class Verdict:
    """The answer to a graph: the outputs that can run, the error when none can, and the errors of bad nodes."""

    outputs: list[str] = field(default_factory=list)
    error: Problem | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate(graph: Any, registry: Registry, reporter: Reporter, targets: Collection[str] | None = None) -> Verdict:
    """Check ``graph`` (API format); constants are converted to the type of their input in place.

    Args:
        targets: the ids of the output nodes to run; all when None.
    """
    registry = registry.remembering()
    error = _structure_problem(graph, registry)
    if error is not None:
        return Verdict(error=error)
    chosen = None if targets is None else set(targets)
    wanted = [
        node_id
        for node_id, node in graph.items()
        if registry.schema(node["class_type"]).is_output_node and (chosen is None or node_id in chosen)
    ]
    if not wanted:
        return Verdict(error=problem_of("prompt_no_outputs", "Prompt has no outputs", ""))
    return _Validator(graph, registry, reporter).verdict(wanted)


def _structure_problem(graph: Any, registry: Registry) -> Problem | None:
    """The first node that is not one, or whose class is not known."""
    if not isinstance(graph, dict):
        return problem_of("invalid_prompt", "The prompt must be an object of nodes.", f"It is a {type(graph).__name__}")
    for node_id, node in graph.items():
        if not isinstance(node, dict):
            return problem_of("invalid_prompt", f"Node '{node_id}' is not an object.", f"Node ID '#{node_id}'")
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        class_type = node.get("class_type")
        if class_type is None:
            message = (
                f"Node '{title or f'ID #{node_id}'}' has no class_type. "
                "The workflow may be corrupted or a custom node is missing."
            )
        elif not isinstance(class_type, str) or class_type not in registry:
            message = (
                f"Node '{title or class_type}' not found: the embedded engine has no class {class_type}. "
                f"It has: {', '.join(sorted(registry))}."
            )
        else:
            continue
        facts = {"node_id": node_id, "class_type": class_type, "node_title": title or class_type}
        return problem_of("missing_node_type", message, f"Node ID '#{node_id}'", **facts)
    return None


@dataclass
class _Result:
    """What is known of one node: valid with its whole ancestry, and its own errors."""

    valid: bool = True
    problems: list[Problem] = field(default_factory=list)


@dataclass
class _Visit:
    """A node that is being checked: the link that led to it (None for an output), what was found, the links to go."""

    node_id: str
    link: _Link | None
    result: _Result = field(default_factory=_Result)
    received: dict[str, Any] = field(default_factory=dict)
    links: Iterator[_Link] = field(init=False)


class _Validator:
    """Checks the ancestry of each output once. A node below a bad one is invalid without errors of its own."""

    def __init__(self, graph: Graph, registry: Registry, reporter: Reporter) -> None:
        self.graph = graph
        self.registry = registry
        self.reporter = reporter
        self.results: dict[str, _Result] = {}
        self.bad: list[str] = []
        self.path: dict[str, _Visit] = {}

    def verdict(self, wanted: list[str]) -> Verdict:
        good: list[str] = []
        lines: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in wanted:
            result = self._check(output)
            if result.valid:
                good.append(output)
                continue
            lines += [f"{problem['message']}: {problem['details']}" for problem in result.problems]
            self._collect(output, node_errors)
        if good:
            return Verdict(good, None, node_errors)
        details = "\n".join(lines[:MOST_TOLD])
        error = problem_of("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)
        return Verdict([], error, node_errors)

    def _collect(self, output: str, node_errors: dict[str, Any]) -> None:
        """Add the nodes with errors known by now to ``node_errors``, as ones that ``output`` depends on."""
        for node_id in self.bad[:MOST_TOLD]:
            class_type = self.graph[node_id]["class_type"]
            problems = self.results[node_id].problems
            entry = {"errors": problems, "dependent_outputs": [], "class_type": class_type}
            dependent = node_errors.setdefault(node_id, entry)["dependent_outputs"]
            if len(dependent) < MOST_TOLD:
                dependent.append(output)

    def _check(self, output: str) -> _Result:
        """Check an output and all that it needs, sources before those who need them."""
        self._enter(output)
        while self.path:
            visit = next(reversed(self.path.values()))
            try:
                link = next(visit.links, None)
                if link is not None:
                    self._follow(visit, link)
                    continue
                inputs = self.graph[visit.node_id]["inputs"]
                visit.result.problems += custom_problems(
                    self._declaration(visit.node_id), inputs, visit.received, self.reporter
                )
            except Exception as error:  # noqa: BLE001 - a node's own checks, and malformed links, may raise anything
                self._set(visit.node_id, _Result(False, [self._raised(visit, error)]))
            else:
                self._settle(visit)
            self._leave(visit)
        return self.results[output]

    def _enter(self, node_id: str, link: _Link | None = None) -> None:
        if node_id not in self.results:
            visit = self.path[node_id] = _Visit(node_id, link)
            visit.links = self._links(visit)

    def _leave(self, visit: _Visit) -> None:
        del self.path[visit.node_id]
        if self.path and not self.results[visit.node_id].valid:
            next(reversed(self.path.values())).result.valid = False

    def _declaration(self, node_id: str) -> Declaration:
        return self.registry.declaration(self.graph[node_id]["class_type"])

    def _links(self, visit: _Visit) -> Iterator[_Link]:
        """Check a node's inputs one after the other, and give each sound link, whose source has to be checked then."""
        declaration = self._declaration(visit.node_id)
        inputs = self.graph[visit.node_id]["inputs"]
        if not isinstance(inputs, dict):
            raise TypeError(f"inputs must be an object, not a {type(inputs).__name__}")
        for name, spec in declaration.inputs.items():
            problem = None
            if name not in inputs:
                if name in declaration.types["required"]:
                    message = "Required input is missing"
                    problem = problem_of("required_input_missing", message, name, input_name=name)
            elif isinstance(inputs[name], list):
                problem = self._link_problem(visit, name, spec, inputs[name])
                if problem is None:
                    yield name, spec, inputs[name]
            else:
                problem = constant_problem(declaration, inputs, name)
            if problem is not None:
                visit.result.problems.append(problem)

    def _link_problem(self, visit: _Visit, name: str, spec: Spec, link: list[Any]) -> Problem | None:
        config = config_of(spec)
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            facts = {"input_name": name, "input_config": config, "received_value": shown(link)}
            return problem_of("bad_linked_input", message, name, **facts)
        source, slot = link
        outputs = tuple(self._declaration(source).schema.outputs or ())
        if isinstance(slot, bool):
            raise TypeError("the number of an output must be a whole number, not a truth value")
        kind = visit.received[name] = outputs[slot].io_type
        if link_types_match(self._declaration(visit.node_id), kind, spec[0]):
            return None
        details = f"{name}, received_type({kind}) mismatch input_type({spec[0]})"
        facts = {"input_name": name, "input_config": config, "received_type": kind, "linked_node": link}
        return problem_of("return_type_mismatch", "Return type mismatch between linked nodes", details, **facts)

    def _follow(self, visit: _Visit, link: _Link) -> None:
        """Turn to the source of a link, unless it is known or leads in a circle."""
        source = link[2][0]
        if source not in self.results and source in self.path:
            self._cycle(source)
        if source in self.results:
            visit.result.valid &= self.results[source].valid
        else:
            self._enter(source, link)

    def _settle(self, visit: _Visit) -> None:
        """Join what was found with what a cycle through this node has left."""
        earlier = self.results.get(visit.node_id, _Result())
        problems = earlier.problems + [each for each in visit.result.problems if each not in earlier.problems]
        self._set(visit.node_id, _Result(earlier.valid and visit.result.valid and not problems, problems))

    def _set(self, node_id: str, result: _Result) -> None:
        if result.problems and not (node_id in self.results and self.results[node_id].problems):
            self.bad.append(node_id)
        self.results[node_id] = result

    def _cycle(self, node_id: str) -> None:
        path = list(self.path)
        nodes = path[path.index(node_id) :]
        first = [*nodes, node_id] if len(nodes) < MOST_TOLD else nodes[:MOST_TOLD]
        details = " -> ".join(f"{each} ({self.graph[each]['class_type']})" for each in first)
        for each in nodes:
            if each not in self.results:
                facts = {"node_id": each, "cycle_nodes": nodes[:MOST_TOLD]}
                problem = problem_of("dependency_cycle", "Dependency cycle detected", details, **facts)
                self._set(each, _Result(False, [problem]))

    def _raised(self, visit: _Visit, error: Exception) -> Problem:
        """The error of a node whose check raised something."""
        log.debug("Node %s of a submitted graph cannot be checked.", visit.node_id, exc_info=error)
        text = self.reporter.text_of(error)
        facts: dict[str, Any] = {"exception_type": full_type_name(type(error)), "traceback": []}
        if visit.link is None:
            return problem_of("exception_during_validation", "Exception when validating node", text, **facts)
        name, spec, link = visit.link
        facts |= {
            "input_name": name,
            "input_config": config_of(spec),
            "exception_message": text,
            "linked_node": link,
        }
        return problem_of("exception_during_inner_validation", "Exception when validating inner node", text, **facts)
