"""One level of a drawing: nodes as the editor stores them, and the links between them, before they have places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ryla_nodes.workflows.graph import is_link, title_of
from ryla_nodes.workflows.object_info import WIDGET_TYPES, InputSpec, NodeClass, ObjectInfo, node_class
from ryla_nodes.workflows.workflow import Workflow

from templates import models

Node = dict[str, Any]
"""A node of the editor's format 0.4."""

_OPTIONAL_SHAPE = 7
WIDTH, WIDE = 300, 420
_SLOT, _WIDGET, _TEXT, _PICTURE, _MARGIN = 20, 26, 130, 280, 20


@dataclass(frozen=True)
class Link:
    """From output ``slot`` of node ``source`` to input ``socket`` of node ``target``."""

    id: int
    source: int
    slot: int
    target: int
    socket: int
    kind: str


@dataclass
class Level:
    """The nodes of a graph or of a subgraph by their ids, and its links."""

    nodes: dict[int, Node]
    links: list[Link] = field(default_factory=list)

    def titled(self, title: str) -> int | None:
        """The id of the node with a title."""
        return next((key for key, node in self.nodes.items() if node["title"] == title), None)

    def depths(self) -> dict[int, int]:
        """How many links lie before each node, on the longest way to it."""
        found: dict[int, int] = {}

        def depth(key: int) -> int:
            if key not in found:
                before = (depth(link.source) for link in self.links if link.target == key and link.source in self.nodes)
                found[key] = 1 + max(before, default=-1)
            return found[key]

        for key in self.nodes:
            depth(key)
        return found

    def connect(self) -> None:
        """Say at both ends of each link which one it is."""
        for key, node in self.nodes.items():
            arriving = {link.socket: link.id for link in self.links if link.target == key}
            for socket, entry in enumerate(node["inputs"]):
                entry["link"] = arriving.get(socket)
            for slot, entry in enumerate(node["outputs"]):
                leaving = [link.id for link in self.links if (link.source, link.slot) == (key, slot)]
                entry["links"] = leaving or None


def drawn(workflow: Workflow, info: ObjectInfo) -> Level:
    """The whole graph of a workflow on one level, for the node classes of ``info``; ids are those of the API graph."""
    classes = {key: _class(node["class_type"], info) for key, node in workflow.graph.items()}
    level = Level({int(key): _node(key, workflow, classes[key], info) for key in workflow.graph})
    for key, node in workflow.graph.items():
        for socket, spec in enumerate(_sockets(classes[key])):
            value = node["inputs"].get(spec.name)
            if is_link(value):
                kind = classes[value[0]].outputs[value[1]]
                link = Link(len(level.links) + 1, int(value[0]), value[1], int(key), socket, kind)
                level.links.append(link)
    return level


def _class(name: str, info: ObjectInfo) -> NodeClass:
    found = node_class(info, name)
    if found is None:
        raise SystemExit(f"{name} is not among the recorded node classes: run record_object_info.py")
    return found


def _node(key: str, workflow: Workflow, kind: NodeClass, info: ObjectInfo) -> Node:
    node = workflow.graph[key]
    properties = {name: node["_meta"][name] for name in ("cnr_id", "ver") if name in node["_meta"]}
    properties["Node name for S&R"] = kind.name
    files = models.of_node(kind.name)
    names = info[kind.name]["output_name"]
    return {
        "id": int(key),
        "type": kind.name,
        "size": list(_size(kind, node["inputs"])),
        "flags": {},
        "mode": 0,
        "inputs": [_socket(spec) for spec in _sockets(kind)],
        "outputs": [{"name": name, "type": kind.outputs[slot], "slot_index": slot} for slot, name in enumerate(names)],
        "title": title_of(node),
        "properties": {**properties, **({"models": files} if files else {})},
        "widgets_values": list(_widget_values(node["inputs"], kind)),
    }


def _is_widget(spec: InputSpec) -> bool:
    return spec.type in WIDGET_TYPES and not spec.options.get("forceInput")


def _sockets(kind: NodeClass) -> list[InputSpec]:
    """The input sockets in the editor's order: those for links alone, then those of the widgets."""
    return sorted(kind.inputs.values(), key=_is_widget)


def _socket(spec: InputSpec) -> dict[str, Any]:
    socket: dict[str, Any] = {"name": spec.name, "type": spec.type}
    if not spec.required:
        socket["shape"] = _OPTIONAL_SHAPE
    if _is_widget(spec):
        socket["widget"] = {"name": spec.name}
    return socket


def _widget_values(inputs: Mapping[str, Any], kind: NodeClass) -> Iterator[Any]:
    """The values in the order of the declaration, with those of the widgets that the editor adds."""
    for spec in filter(_is_widget, kind.inputs.values()):
        value = inputs.get(spec.name, spec.options.get("default"))
        yield spec.options.get("default", "") if is_link(value) else value
        if spec.options.get("control_after_generate"):
            yield "randomize"
        if spec.takes_upload:
            yield "image"


def widget_value(node: Node, kind: NodeClass, name: str) -> Any:
    """The value of a widget of a drawn node."""
    place = 0
    for spec in filter(_is_widget, kind.inputs.values()):
        if spec.name == name:
            return node["widgets_values"][place]
        place += 1 + bool(spec.options.get("control_after_generate")) + spec.takes_upload
    raise KeyError(name)


def height(sockets: int, widgets: int, texts: int = 0, pictures: int = 0) -> int:
    """The height of a node, without its title."""
    return sockets * _SLOT + widgets * _WIDGET + texts * _TEXT + pictures * _PICTURE + _MARGIN


def _size(kind: NodeClass, inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height: a text that comes by a link takes no more than its socket."""
    widgets = list(filter(_is_widget, kind.inputs.values()))
    texts = sum(bool(spec.options.get("multiline")) and not is_link(inputs.get(spec.name)) for spec in widgets)
    control = sum(bool(spec.options.get("control_after_generate")) for spec in widgets)
    pictures = sum(spec.takes_upload for spec in widgets) + (kind.output_node and "images" in kind.inputs)
    sockets = max(len(kind.inputs) - len(widgets), len(kind.outputs))
    return WIDE if texts else WIDTH, height(sockets, len(widgets) - texts + control, texts, pictures)
