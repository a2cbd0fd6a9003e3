"""Stages of a graph folded into one node each: the editor's subgraphs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from ryla_nodes.workflows.object_info import NodeClass, ObjectInfo, node_class

from templates.level import WIDE, WIDTH, Level, Link, Node, height, widget_value

INPUTS, OUTPUTS = -10, -20  # The editor's ids of a subgraph's two ends.


@dataclass(frozen=True)
class Fold:
    """A stage by the titles of its nodes.

    Attributes:
        shown: the widgets that the folded node has: its name for it -> title and input; several are set as one.
        beside: the title of a node or a fold without which this one is not made.
    """

    title: str
    nodes: tuple[str, ...]
    shown: Mapping[str, tuple[tuple[str, str], ...]]
    beside: str = ""


_PICTURE = {
    "width": (("Size", "width"),),
    "height": (("Size", "height"),),
    "guidance": (("Guidance", "guidance"), ("Negative guidance", "guidance")),
    "speed": (("Speed", "mode"),),
}
_SETTINGS = ("Speed", "Negative prompt", "Guidance", "Negative guidance", "Size")
FLUX = Fold("FLUX settings", _SETTINGS, _PICTURE)
FACE = Fold(
    "Face of the photo",
    (
        "Face analyzer", "Reference face", "Face crop", "SDXL", "InstantID", "Face prompt",
        "Encode face prompt", "Face negative prompt", "Identity", "Face speed", "Soft mask", "Encode crop",
        "Face latent", "Face sampler", "Face picture", "Composite", "Scene",
    ),
    {
        "sdxl_checkpoint": (("SDXL", "checkpoint"),),
        "identity_strength": (("Identity", "ip_weight"),),
        "face_denoise": (("Face sampler", "denoise"),),
        "face_seed": (("Face sampler", "seed"),),
        "on_no_face": (("Face crop", "on_no_face"),),
        "face_speed": (("Face speed", "mode"),),
    },
)  # fmt: skip
PROMPT = Fold(
    "Prompt and settings",
    ("Prompt", "Encode prompt", *_SETTINGS),
    {"prompt": (("Prompt", "text"),), **_PICTURE},
    beside=FACE.title,
)
INSTANTID = Fold(
    "InstantID",
    ("Face analyzer", "Reference face", "Keypoints", "InstantID", "Identity", "Speed", "Size"),
    {
        "width": (("Size", "width"), ("Keypoints", "width")),
        "height": (("Size", "height"), ("Keypoints", "height")),
        "face_size": (("Keypoints", "face_size"),),
        "identity_strength": (("Identity", "ip_weight"),),
        "speed": (("Speed", "mode"),),
    },
)
FOLDS = (FACE, PROMPT, FLUX, INSTANTID)  # The long one shows its two stages; the others the nodes of the first.


@dataclass
class Folded:
    """A subgraph: the node that stands for it, what is in it, and its ends."""

    id: str
    node: int
    title: str
    level: Level
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    shown: dict[tuple[str, str], str]


def fold(level: Level, info: ObjectInfo, workflow: str) -> list[Folded]:
    """Put every fold whose nodes are all in ``level`` into a subgraph, and one node into its place."""
    folded = []
    numbers = count(1 + max(link.id for link in level.links))
    for each in FOLDS:
        members = [level.titled(title) for title in each.nodes]
        if None not in members and (not each.beside or level.titled(each.beside)):
            folded.append(_Folding(each, set(filter(None, members)), level, info, workflow).fold(numbers))
    return folded


class _Folding:
    def __init__(self, fold: Fold, members: set[int], level: Level, info: ObjectInfo, workflow: str) -> None:
        self.plan, self.members, self.level, self.info = fold, members, level, info
        self.uuid = lambda name: str(uuid.uuid5(uuid.NAMESPACE_URL, f"ryla-nodes/{workflow}/{fold.title}/{name}"))
        self.node_id = 1 + max(level.nodes)
        self.inner = Level({key: node for key, node in level.nodes.items() if key in members})
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}  # Of the widgets, by the names of their inputs.

    def fold(self, numbers: Iterator[int]) -> Folded:
        arriving = [link for link in self.level.links if link.target in self.members]
        leaving = [link for link in self.level.links if link.source in self.members and link.target not in self.members]
        outer = [link for link in self.level.links if link not in (*arriving, *leaving)]
        self.inner.links = [link for link in arriving if link.source in self.members]
        incoming = _by_source(link for link in arriving if link.source not in self.members)
        for (source, slot), links in incoming.items():
            place, kind = len(self.inputs), links[0].kind
            outer.append(Link(next(numbers), source, slot, self.node_id, place, kind))
            self._take_in(self._input_name(links[0]), kind, [(link.target, link.socket) for link in links], numbers)
        for (source, slot), links in _by_source(leaving).items():
            place, kind = len(self.outputs), links[0].kind
            inner = Link(next(numbers), source, slot, OUTPUTS, place, kind)
            self.inner.links.append(inner)
            name = self.inner.nodes[source]["outputs"][slot]["name"]
            self.outputs.append({"id": self.uuid(f"out {name}"), "name": name, "type": kind, "linkIds": [inner.id]})
            outer += [Link(link.id, self.node_id, place, link.target, link.socket, kind) for link in links]
        for name, targets in self.plan.shown.items():
            self._show(name, targets, numbers)
        self._replace(outer)
        shown = {target: name for name, targets in self.plan.shown.items() for target in targets}
        return Folded(self.uuid("itself"), self.node_id, self.plan.title, self.inner, self.inputs, self.outputs, shown)

    def _input_name(self, link: Link) -> str:
        name = str(self.inner.nodes[link.target]["inputs"][link.socket]["name"])
        taken = {entry["name"] for entry in self.inputs}
        numbered = (f"{name}_{number}" for number in count(2))
        return next(each for each in chain([name], numbered) if each not in taken)

    def _take_in(self, name: str, kind: str, targets: list[tuple[int, int]], numbers: Iterator[int]) -> None:
        """Add an input to the subgraph that leads to some sockets in it, with the widget of the first of them."""
        place = len(self.inputs)
        first, socket = self.inner.nodes[targets[0][0]], targets[0][1]
        if "widget" in first["inputs"][socket]:
            self.values[name] = widget_value(first, self._class(first), first["inputs"][socket]["name"])
        links = [Link(next(numbers), INPUTS, place, node, socket, kind) for node, socket in targets]
        self.inner.links += links
        ids = [link.id for link in links]
        self.inputs.append({"id": self.uuid(f"in {name}"), "name": name, "type": kind, "linkIds": ids})

    def _show(self, name: str, targets: tuple[tuple[str, str], ...], numbers: Iterator[int]) -> None:
        """Let the folded node have a widget of nodes in it."""
        found = []
        for title, socket_name in targets:
            key = self.inner.titled(title)
            assert key is not None
            names = [entry["name"] for entry in self.inner.nodes[key]["inputs"]]
            found.append((key, names.index(socket_name)))
        key, socket = found[0]
        self._take_in(name, self.inner.nodes[key]["inputs"][socket]["type"], found, numbers)

    def _class(self, node: Node) -> NodeClass:
        found = node_class(self.info, node["type"])
        assert found is not None
        return found

    def _is_text(self, title: str, name: str) -> bool:
        """Whether a widget has several lines."""
        key = self.inner.titled(title)
        assert key is not None
        return bool(self._class(self.inner.nodes[key]).inputs[name].options.get("multiline"))

    def _replace(self, links: list[Link]) -> None:
        for key in self.members:
            del self.level.nodes[key]
        self.level.links[:] = links
        inputs = [
            {**entry, **({"widget": {"name": entry["name"]}} if entry["name"] in self.values else {})}
            for entry in ({"name": each["name"], "type": each["type"]} for each in self.inputs)
        ]
        texts = sum(self._is_text(*targets[0]) for targets in self.plan.shown.values())
        sockets = max(len(inputs) - len(self.values), len(self.outputs))
        rows = height(sockets, len(self.values) - texts, texts)
        self.level.nodes[self.node_id] = {
            "id": self.node_id,
            "type": self.uuid("itself"),
            "size": [WIDE if texts else WIDTH, rows],
            "flags": {},
            "mode": 0,
            "inputs": inputs,
            "outputs": [{"name": entry["name"], "type": entry["type"]} for entry in self.outputs],
            "title": self.plan.title,
            "properties": {},
            "widgets_values": list(self.values.values()),
        }


def _by_source(links: Iterable[Link]) -> dict[tuple[int, int], list[Link]]:
    found: dict[tuple[int, int], list[Link]] = {}
    for link in links:
        found.setdefault((link.source, link.slot), []).append(link)
    return found


def number(level: Level, key: Callable[[int], Any]) -> None:
    """Give each node of a level its place in the order of execution."""
    depths = level.depths()
    for order, node in enumerate(sorted(level.nodes, key=lambda each: (depths[each], key(each)))):
        level.nodes[node]["order"] = order
