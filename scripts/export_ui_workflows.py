"""Write the editor's templates of the workflows, from ``workflows/<name>/``, where ComfyUI looks for them.

    python scripts/export_ui_workflows.py [--check]

They are ``example_workflows/<number> <title>.json``, the simplest first, since the editor's browser of templates shows
nothing but the names of files; once at the top of the repository (a clone, the registry's archive) and once in the pack
(``extra_model_paths.yaml``). The API format is the source: node ids, titles and values are kept. ``--check`` writes
nothing and fails when a template is not what would be written.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from ryla_nodes import settings
from ryla_nodes.workflows import object_info
from ryla_nodes.workflows.manifest import available, load
from ryla_nodes.workflows.object_info import ObjectInfo
from ryla_nodes.workflows.workflow import Workflow
from templates import app, folds, layout, models, note
from templates.folds import Folded
from templates.level import Level, drawn

REPO = Path(__file__).resolve().parents[1]
FOLDERS = (REPO / "example_workflows", REPO / "custom_nodes" / "ryla_nodes" / "example_workflows")
FORMAT_VERSION = 0.4
NOTE_GAP = 60
# How a template is opened: letters that can be read, the note in the upper left corner, clear of bars and panels.
SCALE, LEFT, TOP = 0.85, 90, 200


def main() -> int:
    """Write or check every template; the number of files that are not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    texts = {folder / f"{title}.json": text for title, text in templates().items() for folder in FOLDERS}
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    stale += [path for folder in FOLDERS for path in folder.glob("*.json") if path not in texts]
    if check:
        if stale:
            names = ", ".join(path.name for path in stale)
            print(f"not current: {names}; run {Path(__file__).name}", file=sys.stderr)
        return len(stale)
    for path in stale:
        path.unlink(missing_ok=True)
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def templates() -> dict[str, str]:
    """The text of every template, by title."""
    return {title: document_text(workflow) for title, workflow in titled().items()}


def titled() -> dict[str, Workflow]:
    """Every workflow by the title of its template: those of fewest nodes first, and of fewest things to choose."""
    environment = settings.load({})
    workflows = [load(name, environment) for name in available(environment)]
    workflows.sort(key=lambda each: (len(each.graph), sum(p.required for p in each.parameters), each.name))
    return {f"{number} {each.title}": each for number, each in enumerate(workflows, 1)}


def document_text(workflow: Workflow) -> str:
    """The text of a workflow's template, drawn for the oldest recorded ComfyUI."""
    document = _document(workflow, object_info.recorded(object_info.versions()[0]))
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _document(workflow: Workflow, info: ObjectInfo) -> dict[str, Any]:
    root = drawn(workflow, info)
    folded = folds.fold(root, info, workflow.name)
    plan = layout.staged(root)
    number = 1 + max(root.nodes)
    read_me = note.node(workflow, number, (-note.WIDTH - NOTE_GAP - layout.FRAME, 0))
    app_data = app.linear_data(workflow, folded)
    last_link = max(link.id for level in (root, *(each.level for each in folded)) for link in level.links)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"ryla-nodes/{workflow.name}")),
        "revision": 0,
        "last_node_id": number,
        "last_link_id": last_link,
        "nodes": [*_placed(root, plan), read_me],
        "links": [[link.id, link.source, link.slot, link.target, link.socket, link.kind] for link in root.links],
        "groups": plan.groups,
        **({"definitions": {"subgraphs": [_subgraph(each) for each in folded]}} if folded else {}),
        "config": {},
        "extra": {**_view(read_me), **layout.reroutes(plan.bends), "linearData": app_data},
        "models": models.downloads(workflow.models),
        "version": FORMAT_VERSION,
    }


def _placed(level: Level, plan: layout.Layout) -> list[dict[str, Any]]:
    level.connect()
    folds.number(level, lambda key: plan.places[key])
    return [{**node, "pos": list(plan.places[key])} for key, node in level.nodes.items()]


def _view(read_me: dict[str, Any]) -> dict[str, Any]:
    """The part of the canvas that is shown first."""
    x, y = read_me["pos"]
    return {"ds": {"scale": SCALE, "offset": [LEFT / SCALE - x, TOP / SCALE - y]}}


def _subgraph(folded: Folded) -> dict[str, Any]:
    level = folded.level
    plan = layout.flowing(level)
    right = max(x + level.nodes[key]["size"][0] for key, (x, _) in plan.places.items())
    ends = {
        "inputNode": {"id": folds.INPUTS, "bounding": [-260, 0, 150, 60 + 20 * len(folded.inputs)]},
        "outputNode": {"id": folds.OUTPUTS, "bounding": [right + 110, 0, 150, 60 + 20 * len(folded.outputs)]},
    }
    return {
        "id": folded.id,
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": max(level.nodes),
            "lastLinkId": max(link.id for link in level.links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": folded.title,
        **ends,
        "inputs": folded.inputs,
        "outputs": folded.outputs,
        "widgets": [],
        "nodes": _placed(level, plan),
        "groups": [],
        "links": [_link(link) for link in level.links],
        "extra": {},
    }


def _link(link: Any) -> dict[str, Any]:
    return {
        "id": link.id,
        "origin_id": link.source,
        "origin_slot": link.slot,
        "target_id": link.target,
        "target_slot": link.socket,
        "type": link.kind,
    }


if __name__ == "__main__":
    sys.exit(main())
