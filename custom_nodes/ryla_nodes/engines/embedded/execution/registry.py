"""The node classes that the embedded engine knows, and their ``/object_info``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...schema import io

NodeClass = type[io.ComfyNode]
Inputs = dict[str, dict[str, tuple[Any, ...]]]

OWN_MODULE = "custom_nodes.ryla_nodes"


class Registry(Mapping[str, NodeClass]):
    """Node classes by their id. Schemas are made anew at each look, since they list the files that are there."""

    def __init__(self, classes: Iterable[NodeClass]) -> None:
        self._classes = {cls.GET_SCHEMA().node_id: cls for cls in classes}
        self._schemas: dict[str, io.Schema] | None = None

    def remembering(self) -> Registry:
        """A view that makes each schema once: for one request, or one job."""
        view = copy.copy(self)
        view._schemas = {}
        return view

    def __getitem__(self, class_type: str) -> NodeClass:
        return self._classes[class_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def schema(self, class_type: str) -> io.Schema:
        """The schema of a class."""
        if self._schemas is None:
            return self[class_type].GET_SCHEMA()
        if class_type not in self._schemas:
            self._schemas[class_type] = self[class_type].GET_SCHEMA()
        return self._schemas[class_type]

    def input_types(self, class_type: str) -> Inputs:
        """The inputs of a class in the form that its ``/object_info`` shows."""
        inputs = self.schema(class_type).input_types()
        return _old_inputs(inputs) if _declared_in_old_form(self[class_type]) else inputs

    def declared(self, class_type: str) -> dict[str, tuple[Any, ...]]:
        """The required and optional inputs of a class, by name."""
        types = self.input_types(class_type)
        return types["required"] | types.get("optional", {})

    def info(self, class_type: str) -> dict[str, Any]:
        """The class's entry of ``/object_info``, equal in shape to that of a ComfyUI."""
        cls = self[class_type]
        info = cls.GET_NODE_INFO_V1()
        info["python_module"] = info["python_module"] or OWN_MODULE
        if _declared_in_old_form(cls):
            info["input"] = _old_inputs(info["input"])
            for key in ("deprecated", "experimental", "api_node"):
                del info[key]
        return info


def _declared_in_old_form(cls: NodeClass) -> bool:
    """Whether ComfyUI itself declares this class in its older style, whose JSON differs."""
    return cls.RELATIVE_PYTHON_MODULE == "nodes"


def _old_inputs(inputs: Inputs) -> Inputs:
    """A combo's type is its list of options; no option stands for itself; hidden inputs are plain strings."""
    old: Inputs = {}
    for group, items in inputs.items():
        for name, spec in items.items():
            old.setdefault(group, {})[name] = spec[0] if group == "hidden" else _old_spec(*spec)
    return {"required": {}} | old


def _old_spec(kind: Any, options: Mapping[str, Any]) -> tuple[Any, ...]:
    shown = {name: value for name, value in options.items() if name not in ("multiselect", "options")}
    if shown.get("multiline") is False:
        del shown["multiline"]
    kind = list(options["options"] or ()) if kind == "COMBO" else kind
    return (kind, shown) if shown else (kind,)
