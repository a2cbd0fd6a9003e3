"""Whether a graph can run, and the errors that say why not: the checks and JSON shapes of ComfyUI 0.33.0."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from .failures import Problem, exception_facts, problem_of, text_of
from .graph import Graph
from .registry import Registry, config_of, constant_problem, custom_problems, link_types_match


@dataclass(frozen=True)
class Verdict:
    """The answer to a graph: the outputs that can run, the error when none can, and the errors of every bad node."""

    outputs: list[str] = field(default_factory=list)
    error: Problem | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate(graph: Any, registry: Registry, targets: Collection[str] | None = None) -> Verdict:
    """Check ``graph`` (API format); constants are converted to the type of their input in place.

    Args:
        targets: the ids of the output nodes to run; all when None.
    """
    registry = registry.remembering()
    error = _structure_problem(graph, registry)
    if error is not None:
        return Verdict(error=error)
    wanted = [
        node_id
        for node_id, node in graph.items()
        if registry.schema(node["class_type"]).is_output_node and (targets is None or node_id in targets)
    ]
    if not wanted:
        return Verdict(error=problem_of("prompt_no_outputs", "Prompt has no outputs", ""))
    return _Validator(graph, registry).verdict(wanted)


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


class _Validator:
    """Checks the ancestry of each output once. A node below a bad one is invalid without errors of its own."""

    def __init__(self, graph: Graph, registry: Registry) -> None:
        self.graph = graph
        self.registry = registry
        self.results: dict[str, _Result] = {}
        self.path: list[str] = []

    def verdict(self, wanted: list[str]) -> Verdict:
        good: list[str] = []
        lines: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in wanted:
            result = self._output(output)
            if result.valid:
                good.append(output)
                continue
            lines += [f"{problem['message']}: {problem['details']}" for problem in result.problems]
            self._collect(output, node_errors)
        if good:
            return Verdict(good, None, node_errors)
        error = problem_of("prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(lines))
        return Verdict([], error, node_errors)

    def _collect(self, output: str, node_errors: dict[str, Any]) -> None:
        """Add every node with errors known by now to ``node_errors``, as one that ``output`` depends on."""
        for node_id, result in self.results.items():
            if result.valid or not result.problems:
                continue
            class_type = self.graph[node_id]["class_type"]
            entry = {"errors": result.problems, "dependent_outputs": [], "class_type": class_type}
            node_errors.setdefault(node_id, entry)["dependent_outputs"].append(output)

    def _output(self, node_id: str) -> _Result:
        try:
            return self._node(node_id)
        except Exception as error:  # noqa: BLE001 - a node's own checks, and malformed links, may raise anything
            message = "Exception when validating node"
            problem = problem_of("exception_during_validation", message, text_of(error), **exception_facts(error))
            self.results[node_id] = _Result(False, [problem])
            return self.results[node_id]

    def _node(self, node_id: str) -> _Result:
        if node_id in self.results:
            return self.results[node_id]
        if node_id in self.path:
            return self._cycle(node_id)
        result = _Result()
        class_type = self.graph[node_id]["class_type"]
        inputs = self.graph[node_id]["inputs"]
        required = self.registry.input_types(class_type)["required"]
        cls = self.registry[class_type]
        received: dict[str, Any] = {}
        declared = self.registry.declared(class_type)
        for name, spec in declared.items():
            if name not in inputs:
                if name in required:
                    missing = "Required input is missing"
                    result.problems.append(problem_of("required_input_missing", missing, name, input_name=name))
            elif isinstance(inputs[name], list):
                self._link(node_id, name, spec, result, received)
            else:
                problem = constant_problem(cls, inputs, name, spec)
                if problem is not None:
                    result.problems.append(problem)
        result.problems += custom_problems(cls, declared, inputs, received)
        return self._settle(node_id, result)

    def _settle(self, node_id: str, result: _Result) -> _Result:
        """Join ``result`` with what a cycle through this node has left."""
        earlier = self.results.get(node_id, _Result())
        problems = earlier.problems + [problem for problem in result.problems if problem not in earlier.problems]
        self.results[node_id] = _Result(earlier.valid and result.valid and not problems, problems)
        return self.results[node_id]

    def _cycle(self, node_id: str) -> _Result:
        path = [*self.path[self.path.index(node_id) :], node_id]
        nodes = list(dict.fromkeys(path))
        details = " -> ".join(f"{each} ({self.graph[each]['class_type']})" for each in path)
        for each in nodes:
            facts = {"node_id": each, "cycle_nodes": nodes}
            problem = problem_of("dependency_cycle", "Dependency cycle detected", details, **facts)
            self.results[each] = _Result(False, [problem])
        return self.results[node_id]

    def _link(self, node_id: str, name: str, spec: tuple[Any, ...], result: _Result, received: dict[str, Any]) -> None:
        """Check the link in input ``name`` and the nodes behind it."""
        link = self.graph[node_id]["inputs"][name]
        config = config_of(spec)
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            facts = {"input_name": name, "input_config": config, "received_value": link}
            result.problems.append(problem_of("bad_linked_input", message, name, **facts))
            return
        source, slot = link
        outputs = tuple(self.registry.schema(self.graph[source]["class_type"]).outputs or ())
        kind = outputs[slot].io_type
        received[name] = kind
        if not link_types_match(self.registry[self.graph[node_id]["class_type"]], kind, spec[0]):
            details = f"{name}, received_type({kind}) mismatch input_type({spec[0]})"
            facts = {"input_name": name, "input_config": config, "received_type": kind, "linked_node": link}
            message = "Return type mismatch between linked nodes"
            result.problems.append(problem_of("return_type_mismatch", message, details, **facts))
            return
        result.valid &= self._source(node_id, name, config, link)

    def _source(self, node_id: str, name: str, config: tuple[Any, ...], link: list[Any]) -> bool:
        """Whether the node behind a link is valid; what its check raises becomes its error."""
        self.path.append(node_id)
        try:
            return self._node(link[0]).valid
        except Exception as error:  # noqa: BLE001 - as in _output
            facts = {
                "input_name": name,
                "input_config": config,
                "exception_message": text_of(error),
                **exception_facts(error),
                "linked_node": link,
            }
            message = "Exception when validating inner node"
            problem = problem_of("exception_during_inner_validation", message, text_of(error), **facts)
            self.results[link[0]] = _Result(False, [problem])
            return False
        finally:
            self.path.pop()
