"""A workflow: a graph in ComfyUI's API format and the parameters, outputs and models that its manifest declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Graph = dict[str, dict[str, Any]]
"""API format: node id -> ``{"class_type", "inputs", "_meta"}``."""

ParameterType = Literal["string", "text", "int", "float", "bool", "enum", "seed", "image", "lora"]
PARAMETER_TYPES: tuple[ParameterType, ...] = get_args(ParameterType)
OutputKind = Literal["image", "similarity"]
OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)


@dataclass(frozen=True)
class Binding:
    """One input of one node that a parameter sets."""

    title: str
    node_id: str
    input: str


@dataclass(frozen=True)
class Parameter:
    """One declared parameter.

    ``default`` is None for a required parameter and for a seed, which is random unless given. ``min``, ``max`` and
    ``step`` belong to ``int``, ``float`` and ``seed``: valid values are ``min + k * step``; ``choices`` to ``enum``.
    """

    name: str
    type: ParameterType
    help: str
    bindings: tuple[Binding, ...]
    required: bool = False
    default: str | int | float | bool | None = None
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


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
