"""Reading a workflow's folder: ``api.json`` (the graph) and ``workflow.toml`` (what may be asked of it).

Everything that the manifest says is checked against the graph here, so that a workflow that loads can be bound.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RylaError, sentence
from ..similar import nearest
from .graph import Graph, read_graph, title_of
from .parameter import PARAMETER_TYPES, BadValue, Binding, Parameter, coerce
from .workflow import OUTPUT_KINDS, Output, Workflow

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GRAPH_FILE = "api.json"
MANIFEST_FILE = "workflow.toml"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TOP_KEYS = ("title", "summary", "models", "outputs", "parameters")
_PARAMETER_KEYS = (
    "type", "node", "input", "bind", "default", "required", "min", "max", "step", "choices", "aliases", "help",
)  # fmt: skip
_NUMERIC = ("int", "float", "seed")


def read(folder: Path) -> Workflow:
    """Read the workflow in ``folder`` and check its manifest against its graph.

    Raises:
        RylaError: ``invalid_workflow``: a file that is absent or malformed, or a manifest that the graph contradicts.
    """
    graph = read_graph(folder / GRAPH_FILE)
    return _Reader(folder / MANIFEST_FILE, graph).workflow()


class _Reader:
    """One manifest being read; every failure names its file and the table in it."""

    def __init__(self, path: Path, graph: Graph) -> None:
        self.path = path
        self.graph = graph
        self.manifest = self._load()

    def workflow(self) -> Workflow:
        self._known(self.manifest, _TOP_KEYS, "the top level")
        tables = self.manifest.get("parameters", {})
        if not isinstance(tables, dict):
            self._fail("[parameters] is not a table")
        parameters = tuple(self._parameter(name, table) for name, table in tables.items())
        self._unique_names(parameters)
        outputs = self.manifest.get("outputs")
        if not isinstance(outputs, list) or not outputs:
            self._fail("it declares no [[outputs]]")
        return Workflow(
            name=self.path.parent.name,
            title=self._text(self.manifest, "title", "the top level"),
            summary=self._text(self.manifest, "summary", "the top level"),
            models=self._strings(self.manifest, "models", "the top level"),
            parameters=parameters,
            outputs=tuple(self._output(table) for table in outputs),
            graph=self.graph,
        )

    def _load(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            self._fail(f"it cannot be read: {error}", error)
        except tomllib.TOMLDecodeError as error:
            self._fail(f"it is not TOML: {error}", error)

    def _parameter(self, name: str, table: Any) -> Parameter:
        where = f"[parameters.{name}]"
        if not _NAME.fullmatch(name):
            self._fail(f"{where}: a name is lower-case letters, digits and _")
        if not isinstance(table, dict):
            self._fail(f"{where} is not a table")
        self._known(table, _PARAMETER_KEYS, where)
        kind = table.get("type")
        if kind not in PARAMETER_TYPES:
            self._fail(f'{where} type "{kind}" is none of {", ".join(PARAMETER_TYPES)}')
        parameter = Parameter(
            name=name,
            type=kind,
            help=self._text(table, "help", where),
            bindings=self._bindings(table, where),
            required=table.get("required") is True,
            default=table.get("default"),
            min=self._number(table, "min", where, 0 if kind == "seed" else None),
            max=self._number(table, "max", where, 2**64 - 1 if kind == "seed" else None),
            step=self._number(table, "step", where, None),
            choices=self._strings(table, "choices", where),
            aliases=self._strings(table, "aliases", where),
        )
        self._consistent(parameter, table, where)
        return self._with_typed_default(parameter, where)

    def _consistent(self, parameter: Parameter, table: dict[str, Any], where: str) -> None:
        kind = parameter.type
        if kind not in _NUMERIC and any(key in table for key in ("min", "max", "step")):
            self._fail(f"{where}: min, max and step belong to {', '.join(_NUMERIC)}")
        if (kind == "enum") != bool(parameter.choices):
            self._fail(f"{where}: choices belong to enum, and an enum needs them")
        if kind == "image" and not parameter.required:
            self._fail(f"{where}: an image has no default; say required = true")
        if kind == "seed" and ("default" in table or "required" in table):
            self._fail(f"{where}: a seed is random unless given; it has neither default nor required")
        if kind != "seed" and parameter.required == ("default" in table):
            self._fail(f"{where}: say either required = true or a default")
        if parameter.step is not None and (parameter.step <= 0 or parameter.min is None):
            self._fail(f"{where}: step is positive and counts from min")

    def _with_typed_default(self, parameter: Parameter, where: str) -> Parameter:
        if parameter.default is None:
            return parameter
        try:
            return replace(parameter, default=coerce(parameter, parameter.default))
        except BadValue as error:
            self._fail(f"{where}: its own default is refused: {error}", error)

    def _bindings(self, table: dict[str, Any], where: str) -> tuple[Binding, ...]:
        if ("bind" in table) == ("node" in table or "input" in table):
            self._fail(f"{where}: say either node and input, or bind = [[node, input], ...]")
        pairs = table.get("bind", [[table.get("node"), table.get("input")]])
        if not isinstance(pairs, list) or not pairs:
            self._fail(f"{where}: bind is a list of [node, input]")
        return tuple(self._binding(pair, where) for pair in pairs)

    def _binding(self, pair: Any, where: str) -> Binding:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            self._fail(f"{where}: a binding is a node title and an input name, both strings")
        title, name = pair
        node_id = self._node(title, where)
        node = self.graph[node_id]
        inputs = node["inputs"]
        if name not in inputs:
            near = nearest(name, inputs)
            suggestion = f'; did you mean "{near}"?' if near else f"; it has {', '.join(inputs) or 'none'}"
            self._fail(f'{where}: node "{title}" ({node.get("class_type")}) has no input "{name}"{suggestion}')
        if isinstance(inputs[name], list):
            self._fail(f'{where}: input "{name}" of node "{title}" is linked, so it has no value to set')
        return Binding(title=title, node_id=node_id, input=name)

    def _node(self, title: str, where: str) -> str:
        ids = [node_id for node_id, node in self.graph.items() if title_of(node) == title]
        if len(ids) > 1:
            self._fail(f'{where}: {len(ids)} nodes of the graph are titled "{title}" (ids {", ".join(ids)})')
        if not ids:
            titles = [title_of(node) for node in self.graph.values()]
            near = nearest(title, titles)
            suggestion = f'did you mean "{near}"?' if near else f"it has {', '.join(sorted(titles))}"
            self._fail(f'{where}: the graph has no node titled "{title}"; {suggestion}')
        return ids[0]

    def _output(self, table: Any) -> Output:
        where = "[[outputs]]"
        if not isinstance(table, dict):
            self._fail(f"{where} is not a table")
        self._known(table, ("node", "kind"), where)
        kind = table.get("kind")
        if kind not in OUTPUT_KINDS:
            self._fail(f'{where} kind "{kind}" is none of {", ".join(OUTPUT_KINDS)}')
        title = self._text(table, "node", where)
        return Output(title=title, node_id=self._node(title, where), kind=kind)

    def _unique_names(self, parameters: tuple[Parameter, ...]) -> None:
        seen: dict[str, str] = {}
        for parameter in parameters:
            for name in (parameter.name, *parameter.aliases):
                if name in seen:
                    self._fail(f'[parameters.{parameter.name}]: the name "{name}" is taken by {seen[name]}')
                seen[name] = parameter.name
        if sum(parameter.type == "seed" for parameter in parameters) > 1:
            self._fail("two parameters of type seed; let one bind both nodes")

    def _known(self, table: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
        for key in table:
            if key not in keys:
                near = nearest(key, keys)
                suggestion = f'; did you mean "{near}"?' if near else f"; known: {', '.join(keys)}"
                self._fail(f'{where} has an unknown key "{key}"{suggestion}')

    def _text(self, table: dict[str, Any], key: str, where: str) -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value.strip():
            self._fail(f"{where} needs a non-empty {key}")
        return value

    def _strings(self, table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            self._fail(f"{where} {key} is a list of strings")
        return tuple(value)

    def _number(self, table: dict[str, Any], key: str, where: str, default: int | None) -> int | float | None:
        value = table.get(key, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            self._fail(f"{where} {key} is a number")
        return value

    def _fail(self, why: str, cause: Exception | None = None) -> NoReturn:
        path = str(self.path)
        raise RylaError("invalid_workflow", sentence(f"The manifest {path} is invalid: {why}"), path=path) from cause
