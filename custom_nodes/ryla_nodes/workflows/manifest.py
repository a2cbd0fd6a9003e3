"""Reading a workflow's folder: ``api.json`` (the graph) and ``workflow.toml`` (what may be asked of it).

Everything that the manifest says is checked against the graph here, so that a workflow that loads can be bound. What
several workflows say alike stands in a file that their manifests include.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RylaError, sentence
from ..files import read_text
from ..settings import Settings
from ..similar import nearest
from . import best_of
from .graph import Graph, read_graph, title_of
from .parameter import PARAMETER_TYPES, BadValue, Binding, Parameter, coerce
from .workflow import OUTPUT_KINDS, Output, Workflow


def shipped_root() -> Path:
    """The folder of the workflows that come with the package: inside it in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_workflows"
    return installed if installed.is_dir() else package.parents[1] / "workflows"


def available(settings: Settings) -> dict[str, Path]:
    """Every workflow by name, sorted; a folder of ``RYLA_WORKFLOWS`` hides the shipped one of the same name."""
    roots = [shipped_root()] + ([settings.workflows] if settings.workflows else [])
    found = {manifest.parent.name: manifest.parent for root in roots for manifest in root.glob(f"*/{MANIFEST_FILE}")}
    return dict(sorted(found.items()))


def scored(settings: Settings) -> list[str]:
    """The names of the workflows whose pictures have a face score."""
    names = []
    for name, folder in available(settings).items():
        # One that cannot be read says so where it is used.
        with suppress(RylaError):
            names += [name] if read(folder).parameter(best_of.NAME) else []
    return names


def load(name: str, settings: Settings) -> Workflow:
    """Load a workflow by name.

    Raises:
        RylaError: ``unknown_workflow`` with the nearest name, ``invalid_workflow`` as ``read`` does.
    """
    known = available(settings)
    if name not in known:
        near = nearest(name, known)
        suggestion = f'did you mean "{near}"?' if near else f"known: {', '.join(known) or 'none'}."
        searched = [str(root) for root in (settings.workflows, shipped_root()) if root]
        raise RylaError(
            "unknown_workflow",
            f'There is no workflow "{name}" in {" or ".join(searched)}: {suggestion}',
            workflow=name,
            nearest=near,
            known=list(known),
            searched=searched,
        )
    return read(known[name])


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GRAPH_FILE = "api.json"
MANIFEST_FILE = "workflow.toml"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Options of ``ryla run`` and fields of its file names (tested to be all of them): nobody could give such a parameter.
RESERVED = (
    "output", "server", "engine", "gateway", "timeout", "dry_run", "count", "seeds", "batch", "results",
    "contact_sheet", "overwrite", "start_comfyui", "comfyui_python", "comfyui_args", "json", "help", "debug", "index",
    "row", "workflow",
)  # fmt: skip

_TOP_KEYS = ("title", "summary", "models", "outputs", "include", "parameters")
_INCLUDED_KEYS = ("include", "parameters")
_PARAMETER_KEYS = (
    "type", "node", "input", "bind", "default", "required", "min", "max", "step", "choices", "aliases", "help",
)  # fmt: skip
_NUMERIC = ("int", "float", "seed")
# What a key of a manifest's own table displaces in the included one.
_RIVALS = {
    "required": ("default",),
    "default": ("required",),
    "bind": ("node", "input"),
    "node": ("bind",),
    "input": ("bind",),
}


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
        self.titles = {node_id: title_of(node) for node_id, node in graph.items()}
        self.included: dict[str, list[Path]] = {}

    def workflow(self) -> Workflow:
        manifest = self._document(self.path, "it")
        self._known(manifest, _TOP_KEYS, "the top level")
        tables = self._tables(manifest, "the top level", (self.path.absolute(),))
        parameters = self._with_typed_defaults([self._parameter(name, table) for name, table in tables.items()])
        self._unique_names(parameters)
        outputs = manifest.get("outputs")
        if not isinstance(outputs, list) or not outputs:
            self._fail("it declares no [[outputs]]")
        declared = tuple(self._output(table) for table in outputs)
        own = self._best_of(parameters, declared)
        return Workflow(
            name=self.path.parent.name,
            title=self._text(manifest, "title", "the top level"),
            summary=self._text(manifest, "summary", "the top level"),
            models=self._strings(manifest, "models", "the top level"),
            parameters=(*sorted(parameters, key=lambda parameter: not parameter.required), *own),
            outputs=declared,
            graph=self.graph,
        )

    def _best_of(self, parameters: Sequence[Parameter], outputs: Sequence[Output]) -> tuple[Parameter, ...]:
        """What a workflow whose pictures have a face score takes without declaring it."""
        if not any(output.kind == "similarity" for output in outputs):
            return ()
        if not any(parameter.type == "seed" for parameter in parameters):
            return ()
        for parameter in parameters:
            if best_of.NAME in (parameter.name, *parameter.aliases):
                self._fail(f'{self._where(parameter.name)}: a workflow with a similarity has a "{best_of.NAME}" anyway')
        return (best_of.parameter(),)

    def _document(self, path: Path, what: str) -> dict[str, Any]:
        try:
            return tomllib.loads(read_text(path))
        except (OSError, UnicodeDecodeError) as error:
            self._fail(f"{what} cannot be read: {error}", error)
        except tomllib.TOMLDecodeError as error:
            self._fail(f"{what} is not TOML: {error}", error)

    def _tables(self, document: dict[str, Any], where: str, chain: tuple[Path, ...]) -> dict[str, Any]:
        """A document's parameters: those that it includes and, over them key by key, its own.

        Args:
            chain: the files that include each other on the way here; the document's own is the last.
        """
        tables: dict[str, Any] = {}
        for name in self._strings(document, "include", where):
            tables = _over(tables, self._included(name, chain))
        own = document.get("parameters", {})
        if not isinstance(own, dict):
            self._fail(f"{where} [parameters] is not a table")
        return _over(tables, own)

    def _included(self, name: str, chain: tuple[Path, ...]) -> dict[str, Any]:
        """The parameters of the file that the last of ``chain`` calls ``name``, as seen from its own folder."""
        root = chain[0].parent.parent
        # Links are not followed here: ``../`` of a linked workflow is the folder that holds the link.
        path = Path(os.path.normpath(chain[-1].parent / name))
        try:
            real, inside = path.resolve(), path.resolve().is_relative_to(root.resolve())
            above = [file.resolve() for file in chain]
        except (OSError, RuntimeError, ValueError) as error:  # A circle of links, a name that no file can have.
            self._fail(f'it includes "{name}", which cannot be read: {error}', error)
        if not inside:
            self._fail(f'it includes "{name}", which is outside of {root}')
        if real in above:
            circle = " -> ".join(file.name for file in (*above[above.index(real) :], real))
            self._fail(f"files include each other in a circle: {circle}")
        document = self._document(path, f'it includes "{name}", but {path}')
        self._known(document, _INCLUDED_KEYS, str(path))
        tables = self._tables(document, str(path), (*chain, path))
        for key in document.get("parameters", {}):
            self.included.setdefault(key, []).append(path)
        return tables

    def _parameter(self, name: str, table: Any) -> Parameter:
        where = self._where(name)
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
        return parameter

    def _where(self, name: str) -> str:
        files = self.included.get(name)
        return f"[parameters.{name}]" + (f" (of {', '.join(map(str, files))})" if files else "")

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

    def _with_typed_defaults(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        typed = []
        for parameter in parameters:
            try:
                default = None if parameter.default is None else coerce(parameter, parameter.default)
            except BadValue as error:
                self._fail(f"{self._where(parameter.name)}: its own default is refused: {error}", error)
            typed.append(replace(parameter, default=default))
        return typed

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
        ids = [node_id for node_id, found in self.titles.items() if found == title]
        if len(ids) > 1:
            self._fail(f'{where}: {len(ids)} nodes of the graph are titled "{title}" (ids {", ".join(ids)})')
        if not ids:
            near = nearest(title, self.titles.values())
            suggestion = f'did you mean "{near}"?' if near else f"it has {', '.join(sorted(self.titles.values()))}"
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

    def _unique_names(self, parameters: Sequence[Parameter]) -> None:
        seen: dict[str, str] = {}
        for parameter in parameters:
            for name in (parameter.name, *parameter.aliases):
                if name.replace("-", "_") in RESERVED:
                    self._fail(f'{self._where(parameter.name)}: the name "{name}" is reserved for ryla run')
                if name in seen:
                    self._fail(f'{self._where(parameter.name)}: the name "{name}" is taken by {seen[name]}')
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


def _over(included: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Parameters over included ones: what both have is put together key by key."""
    both = {name: _together(included[name], table) for name, table in own.items() if name in included}
    return included | own | both


def _together(included: Any, own: Any) -> Any:
    if not isinstance(included, dict) or not isinstance(own, dict):
        return own
    displaced = {rival for key in own for rival in _RIVALS.get(key, ())}
    return {key: value for key, value in included.items() if key not in displaced} | own
