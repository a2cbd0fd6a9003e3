"""Write the editor's copies of the workflows: ``example_workflows/<name>.json`` from ``workflows/<name>/api.json``.

    python scripts/export_ui_workflows.py [--check]

The API format is the source: node ids, titles and values are kept. Positions are made here: a node stands right of all
that it needs and as near as it can to what needs it. ``--check`` writes nothing and fails when a copy is not what would
be written.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from ryla_nodes import settings
from ryla_nodes.models import catalogue
from ryla_nodes.workflows import object_info
from ryla_nodes.workflows.graph import is_link, reachable, sources, title_of
from ryla_nodes.workflows.manifest import available, load
from ryla_nodes.workflows.object_info import WIDGET_TYPES, InputSpec, NodeClass, ObjectInfo, node_class
from ryla_nodes.workflows.workflow import Workflow

TARGET = Path(__file__).resolve().parents[1] / "example_workflows"
FORMAT_VERSION = 0.4
OPTIONAL_SHAPE = 7
FRAME, FRAME_COLOR = 20, "#3f789e"
NOTE_COLORS = {"color": "#432", "bgcolor": "#653"}

WIDTH, WIDE, COLUMN_GAP, ROW_GAP = 280, 400, 60, 60
SLOT, WIDGET, TEXT, PICTURE, MARGIN = 20, 26, 120, 260, 20


class Drawing:
    """One workflow as the editor stores it (format 0.4), drawn for the node classes of ``info``."""

    def __init__(self, workflow: Workflow, info: ObjectInfo) -> None:
        self.workflow = workflow
        self.info = info
        self.graph = workflow.graph
        self.classes = {key: _class(node["class_type"], info) for key, node in self.graph.items()}
        self.links = list(self._links())
        self.sections = self._sections()

    def document(self) -> dict[str, Any]:
        """The JSON of the file."""
        places, groups = self._places()
        order = [key for keys in self.sections.values() for key in sorted(keys, key=lambda key: places[key])]
        nodes = [self._node(key, places[key], order.index(key)) for key in self.graph]
        note = self._note(places)
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"ryla-nodes/{self.workflow.name}")),
            "revision": 0,
            "last_node_id": note["id"],
            "last_link_id": len(self.links),
            "nodes": [*nodes, note],
            "links": self.links,
            "groups": groups if len(groups) > 1 else [],
            "config": {},
            "extra": {},
            "version": FORMAT_VERSION,
        }

    def _links(self) -> Iterator[list[Any]]:
        """``[link, source node, output, target node, input socket, type]``, numbered from 1."""
        number = 0
        for key, node in self.graph.items():
            for socket, spec in enumerate(_sockets(self.classes[key])):
                value = node["inputs"].get(spec.name)
                if is_link(value):
                    number += 1
                    kind = self.classes[value[0]].outputs[value[1]]
                    yield [number, int(value[0]), value[1], int(key), socket, kind]

    def _sections(self) -> dict[str, list[str]]:
        """The nodes by the decoder whose picture they make; what comes after the last decoder belongs to it."""
        sections: dict[str, list[str]] = {}
        rest = list(self.graph)
        for decoder in (key for key, kind in self.classes.items() if kind.name == "VAEDecode"):
            needed = reachable(self.graph, [decoder])
            sections[decoder] = [key for key in rest if key in needed]
            rest = [key for key in rest if key not in needed]
        sections[next(reversed(sections))].extend(rest)
        return sections

    def _columns(self, keys: list[str]) -> dict[str, int]:
        """The column of each node: right of what it needs; a node that needs nothing, left of its first user."""
        columns: dict[str, int] = {}

        def column(key: str) -> int:
            if key not in columns:
                inside = [column(source) for source in sources(self.graph[key]) if source in keys]
                columns[key] = 1 + max(inside, default=-1)
            return columns[key]

        for key in keys:
            column(key)
        for key in keys:
            users = [columns[user] for user in keys if key in sources(self.graph[user])]
            if users and not any(sources(self.graph[key])):
                columns[key] = min(users) - 1
        return columns

    def _places(self) -> tuple[dict[str, tuple[int, int]], list[dict[str, Any]]]:
        """Where each node stands, section below section, and a frame around each section."""
        places: dict[str, tuple[int, int]] = {}
        frames = []
        top = 0
        for number, (decoder, keys) in enumerate(self.sections.items(), 1):
            right, bottom = self._place_section(keys, top, places)
            bounding = [-FRAME, top - 4 * FRAME, right + 2 * FRAME, bottom - top + 5 * FRAME]
            title = f"{number}. {title_of(self.graph[decoder])}"
            frames.append({"id": number, "title": title, "bounding": bounding, "color": FRAME_COLOR, "flags": {}})
            top = bottom + 6 * FRAME
        return places, frames

    def _place_section(self, keys: list[str], top: int, places: dict[str, tuple[int, int]]) -> tuple[int, int]:
        """Add the places of one section's nodes; its right and bottom edges."""
        columns = self._columns(keys)
        left, bottom = 0, top
        for column in sorted(set(columns.values())):
            members = [key for key in keys if columns[key] == column]
            members.sort(key=lambda key: self._pull(key, places))
            y = top
            for key in members:
                places[key] = (left, y)
                y += _size(self.classes[key])[1] + ROW_GAP
            bottom = max(bottom, y - ROW_GAP)
            left += max(_size(self.classes[key])[0] for key in members) + COLUMN_GAP
        return left - COLUMN_GAP, bottom

    def _pull(self, key: str, places: Mapping[str, tuple[int, int]]) -> float:
        """Where the links of a node come from, vertically; a node that needs nothing goes below those that do."""
        heights = [places[source][1] for source in sources(self.graph[key]) if source in places]
        return mean(heights) if heights else float("inf")

    def _node(self, key: str, place: tuple[int, int], order: int) -> dict[str, Any]:
        node, kind = self.graph[key], self.classes[key]
        arriving = {link[4]: link[0] for link in self.links if link[3] == int(key)}
        properties = {name: node["_meta"][name] for name in ("cnr_id", "ver") if name in node["_meta"]}
        return {
            "id": int(key),
            "type": kind.name,
            "pos": list(place),
            "size": list(_size(kind)),
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": [_socket(spec, arriving.get(socket)) for socket, spec in enumerate(_sockets(kind))],
            "outputs": [self._output(key, slot) for slot in range(len(kind.outputs))],
            "title": title_of(node),
            "properties": {**properties, "Node name for S&R": kind.name},
            "widgets_values": list(_widget_values(node["inputs"], kind)),
        }

    def _output(self, key: str, slot: int) -> dict[str, Any]:
        kind = self.classes[key]
        leaving = [link[0] for link in self.links if link[1:3] == [int(key), slot]]
        name = self.info[kind.name]["output_name"][slot]
        return {"name": name, "type": kind.outputs[slot], "slot_index": slot, "links": leaving or None}

    def _note(self, places: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        return {
            "id": max(map(int, self.graph)) + 1,
            "type": "MarkdownNote",
            "pos": [min(left for left, _ in places.values()) - WIDE - COLUMN_GAP, 0],
            "size": [WIDE, 400],
            "flags": {},
            "order": len(self.graph),
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "Read me",
            "properties": {},
            "widgets_values": [_note_text(self.workflow)],
            **NOTE_COLORS,
        }


def main() -> int:
    """Write or check every copy; the number of copies that are not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    environment = settings.load({})
    stale = []
    for name in available(environment):
        path = TARGET / f"{name}.json"
        text = document_text(load(name, environment))
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"not current: {', '.join(stale)}; run {Path(__file__).name}", file=sys.stderr)
    return len(stale)


def document_text(workflow: Workflow) -> str:
    """The text of a workflow's file in ``example_workflows/``, drawn for the oldest recorded ComfyUI."""
    document = Drawing(workflow, object_info.recorded(object_info.versions()[0])).document()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _class(name: str, info: ObjectInfo) -> NodeClass:
    found = node_class(info, name)
    if found is None:
        raise SystemExit(f"{name} is not among the recorded node classes: run record_object_info.py")
    return found


def _is_widget(spec: InputSpec) -> bool:
    return spec.type in WIDGET_TYPES and not spec.options.get("forceInput")


def _sockets(kind: NodeClass) -> list[InputSpec]:
    """The input sockets in the editor's order: those for links alone, then those of the widgets."""
    return sorted(kind.inputs.values(), key=_is_widget)


def _socket(spec: InputSpec, link: int | None) -> dict[str, Any]:
    socket: dict[str, Any] = {"name": spec.name, "type": spec.type, "link": link}
    if not spec.required:
        socket["shape"] = OPTIONAL_SHAPE
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


def _size(kind: NodeClass) -> tuple[int, int]:
    widgets = list(filter(_is_widget, kind.inputs.values()))
    texts = sum(bool(spec.options.get("multiline")) for spec in widgets)
    pictures = sum(spec.takes_upload for spec in widgets) + (kind.output_node and "images" in kind.inputs)
    rows = max(len(kind.inputs) - len(widgets), len(kind.outputs)) * SLOT
    rows += (len(widgets) - texts) * WIDGET + texts * TEXT + pictures * PICTURE
    return WIDE if texts else WIDTH, rows + MARGIN


def _note_text(workflow: Workflow) -> str:
    entries = [catalogue.load().get(model) for model in workflow.models]
    models = "\n".join(f"- {entry.title}: `models/{entry.folder}/{entry.filename}`" for entry in entries)
    required = " ".join(f"--{p.name.replace('_', '-')} ..." for p in workflow.parameters if p.required)
    return (
        f"# {workflow.title}\n\n{workflow.summary}\n\n"
        f"Get the models:\n\n```\nryla models install {workflow.name}\n```\n\n{models}\n\n"
        f"Without the editor:\n\n```\nryla run {workflow.name} {required}\n```\n"
    )


if __name__ == "__main__":
    sys.exit(main())
