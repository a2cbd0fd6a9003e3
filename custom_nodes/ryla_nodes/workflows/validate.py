"""Whether an engine would take a graph and run every output of it, judged from its ``/object_info`` alone.

The rules are those of ComfyUI's own ``validate_prompt``: nodes that no output needs are skipped, a list is a link, a
value is converted before its range is checked. Stricter in three things that the server lets pass and that go wrong
later: a value where only a link makes sense, a number that is cut off or not finite, a truth value that is a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NoReturn

from ..errors import RylaError, sentence
from ..similar import nearest
from . import remedies
from .graph import find_cycle, inputs_of, links, reachable, title_of
from .object_info import InputSpec, LiteralProblem, NodeClass, ObjectInfo, compatible, node_class

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. A ``warning`` does not keep the engine from running the graph."""

    code: str
    message: str
    hint: str = ""
    severity: Severity = "error"
    node_id: str = ""
    title: str = ""
    class_type: str = ""
    input: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return asdict(self)


def problems(graph: Mapping[str, Any], object_info: ObjectInfo) -> list[Problem]:
    """Every problem of a graph in API format, errors before warnings; empty when all of it will run.

    Args:
        object_info: the JSON of an engine's ``GET /object_info``, or a ``recorded`` one.
    """
    return sorted(_Check(graph, object_info).run(), key=lambda problem: problem.severity)


def require_valid(graph: Mapping[str, Any], object_info: ObjectInfo, *, where: str) -> None:
    """Raise for the first error of ``problems``.

    Args:
        where: which engine or recording was asked, for the message.

    Raises:
        RylaError: ``missing_node``, ``missing_model`` or ``invalid_graph``; ``details["problems"]`` lists them all.
    """
    found = [problem for problem in problems(graph, object_info) if problem.severity == "error"]
    if found:
        _refuse(found, where)


def _refuse(found: list[Problem], where: str) -> NoReturn:
    first = found[0]
    message = sentence(f"{where}: {first.message}", len(found) - 1)
    listing = [problem.as_dict() for problem in found]
    if first.code == "missing_class":
        raise RylaError("missing_node", message, hint=first.hint, where=where, problems=listing)
    if first.code == "missing_model":
        raise RylaError("missing_model", message, hint=first.hint, where=where, problems=listing)
    raise RylaError("invalid_graph", message, hint=first.hint, where=where, problems=listing)


class _Check:
    """One graph against one engine's node classes."""

    def __init__(self, graph: Mapping[str, Any], object_info: ObjectInfo) -> None:
        self.graph = graph
        self.object_info = object_info
        self.nodes = {key: node for key, node in graph.items() if _has_class(node)}
        self.values = {key: inputs_of(node) for key, node in self.nodes.items()}
        self.links = {key: links(node) for key, node in self.nodes.items()}
        self.classes = {key: node_class(object_info, node["class_type"]) for key, node in self.nodes.items()}

    def run(self) -> Iterator[Problem]:
        yield from self._malformed()
        yield from self._missing_classes()
        outputs = [key for key, kind in self.classes.items() if kind and kind.output_node]
        if not outputs and all(self.classes.values()):
            hint = "Add an output node, such as RYLA_SaveImage"
            yield Problem("no_output", "the graph has no output node, so there is nothing to run", hint)
        needed = reachable(self.nodes, outputs)
        cycle = find_cycle(self.nodes, needed)
        if cycle:
            loop = " -> ".join(self._name(key) for key in [*cycle, cycle[0]])
            yield self._problem("cycle", cycle[0], f"nodes depend on each other in a circle: {loop}")
        for key, kind in self.classes.items():
            if kind is None:
                continue
            if key in needed:
                yield from self._inputs(key, kind)
            elif outputs and kind.outputs:
                message = f"{self._name(key)} feeds no output, so the engine skips it"
                yield self._problem("unreachable", key, message, severity="warning")

    def _malformed(self) -> Iterator[Problem]:
        for key, node in self.graph.items():
            if key in self.nodes:
                continue
            if isinstance(node, dict) and "inputs" in node:
                yield Problem("missing_class_type", f'node "{key}" has no class_type', node_id=key)
            else:
                hint = "Take top-level metadata out: every key of an API graph is a node id"
                yield Problem("stray_key", f'top-level key "{key}" is not a node', hint, node_id=key)

    def _missing_classes(self) -> Iterator[Problem]:
        for key, kind in self.classes.items():
            if kind is None:
                class_type = self.nodes[key]["class_type"]
                pack, hint = remedies.for_class(class_type, self.nodes[key].get("_meta"), self.object_info)
                message = f"{self._name(key)} needs node class {class_type} of {pack}, which is not there"
                yield self._problem("missing_class", key, message, hint=hint, facts={"pack": pack})

    def _inputs(self, key: str, kind: NodeClass) -> Iterator[Problem]:
        values, literal_problems, dynamic = self.values[key], kind.literal_problems(self.values[key]), kind.dynamic
        for name, spec in kind.inputs.items():
            if isinstance(values.get(name), list):
                yield from self._link(key, spec, values[name])
            elif name in literal_problems:
                yield self._literal(key, name, literal_problems[name])
            elif name not in values and spec.required and not spec.dynamic:
                message = f'{self._name(key)} lacks its required input "{name}" ({spec.type})'
                yield self._problem("missing_input", key, message, input=name)
        if not dynamic:
            yield from self._unknown_inputs(key, kind, values)

    def _unknown_inputs(self, key: str, kind: NodeClass, values: Mapping[str, Any]) -> Iterator[Problem]:
        for name in values:
            if name not in kind.inputs:
                near = nearest(name, kind.inputs)
                suggestion = f'; did you mean "{near}"?' if near else ""
                message = f'{self._name(key)} has no input "{name}": the engine ignores it{suggestion}'
                yield self._problem("unknown_input", key, message, severity="warning", input=name)

    def _literal(self, key: str, name: str, found: LiteralProblem) -> Problem:
        message = f'{self._name(key)} input "{name}" {found.message}'
        return self._problem(found.code, key, message, hint=found.hint, input=name, facts=found.facts)

    def _link(self, key: str, spec: InputSpec, value: list[Any]) -> Iterator[Problem]:
        fault = self._link_fault(key, spec, value)
        if fault:
            yield self._problem(fault[0], key, f'{self._name(key)} input "{spec.name}" {fault[1]}', input=spec.name)

    def _link_fault(self, key: str, spec: InputSpec, value: list[Any]) -> tuple[str, str] | None:
        if spec.name not in self.links[key]:
            return "bad_link", f"is a list but not a link [node id, output number]: {value!r}"
        source, slot = self.links[key][spec.name]
        if source not in self.graph:
            return "dangling_link", f'is linked to node "{source}", which the graph does not have'
        kind = self.classes.get(source)
        if kind is None:
            return None
        if not 0 <= slot < len(kind.outputs):
            return "dangling_link", f"is linked to output {slot} of {self._name(source)}, which has {len(kind.outputs)}"
        given = kind.outputs[slot]
        if given != spec.type and not compatible(given, spec.type):
            return "type_mismatch", f"takes {spec.type} but is linked to {given} from {self._name(source)}"
        return None

    def _name(self, key: str) -> str:
        node = self.nodes[key]
        title, class_type = title_of(node), node["class_type"]
        return f'"{title}" ({class_type}, node {key})' if title != class_type else f"{class_type} (node {key})"

    def _problem(self, code: str, key: str, message: str, **fields: Any) -> Problem:
        node = self.nodes[key]
        return Problem(code, message, node_id=key, title=title_of(node), class_type=node["class_type"], **fields)


def _has_class(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and bool(node["class_type"])
