"""Where the nodes of a template stand: stages from left to right in frames, and wires led around what they pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from templates import folds
from templates.level import Level, Link

Place = tuple[int, int]

TITLE, ROW_GAP, COLUMN_GAP = 30, 70, 110
FRAME, FRAME_TITLE, FRAME_COLOR = 20, 50, "#3f789e"
_LANE, _LANES_BELOW, _BEND = 16, 60, 24
_REST = "Picture"
# What belongs to which stage: node classes, and folds by their titles.
STAGES: dict[str, tuple[str, ...]] = {
    "Models": ("RYLA_FluxLoader", "RYLA_LoraLoader", "RYLA_SDXLLoader", "RYLA_InstantIDLoader"),
    "Photo": ("LoadImage", folds.FACE.title, folds.INSTANTID.title),
    "Prompt": ("RYLA_Prompt", "CLIPTextEncode", "EmptyLatentImage", folds.FLUX.title, folds.PROMPT.title),
    _REST: (),
    "Result": ("RYLA_SaveImage", "RYLA_FaceSimilarity"),
}
_TO_DO = {"Photo": "choose a photo"}
# What the report of a node, or of a fold by its title, takes below it after a run; those of faces are pictures.
_REPORT = {
    "RYLA_FluxLoader": 150,
    "RYLA_SDXLLoader": 50,
    "RYLA_LoraLoader": 135,
    "RYLA_InstantIDLoader": 60,
    "RYLA_Prompt": 50,
    "RYLA_FaceAnalyzer": 40,
    "RYLA_FaceEmbed": 40,
    "RYLA_FaceCrop": 350,
    "RYLA_FaceSimilarity": 350,
    folds.PROMPT.title: 50,
    folds.FACE.title: 160,
    folds.INSTANTID.title: 130,
}


@dataclass
class Layout:
    """Places by node, frames around the stages, and the bends of wires: points, the first at the wire's source."""

    places: dict[int, Place] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    bends: dict[int, list[Place]] = field(default_factory=dict)
    bottom: int = 0


def staged(level: Level) -> Layout:
    """The layout of a whole template: a column for each stage, with a frame around it."""
    depths = level.depths()
    stages: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for key in level.nodes:
        stages[_stage(level, key)].append(key)
    order = list(STAGES)
    filled = [stage for stage in order if stages[stage]]
    filled.sort(key=lambda stage: (max(depths[key] for key in stages[stage]), order.index(stage)))
    columns = [sorted(stages[stage], key=lambda key: (depths[key], key)) for stage in filled]
    layout = _columns(level, columns)
    for number, (stage, keys) in enumerate(zip(filled, columns, strict=True), 1):
        hint = f": {_TO_DO[stage]}" if stage in _TO_DO else ""
        layout.groups.append(_frame(number, f"{number}. {stage}{hint}", [_box(level, layout, key) for key in keys]))
    _bend(level, layout, columns)
    return layout


def flowing(level: Level) -> Layout:
    """The layout of a subgraph: each node right of all that it needs, as near as it can to what needs it."""
    depths = level.depths()
    column = dict(depths)
    for key in level.nodes:
        users = [depths[link.target] for link in level.links if link.source == key and link.target in depths]
        if users and depths[key] == 0:
            column[key] = min(users) - 1
    columns = [[key for key in level.nodes if column[key] == number] for number in range(max(column.values()) + 1)]
    return _columns(level, [keys for keys in columns if keys])


def _stage(level: Level, key: int) -> str:
    node = level.nodes[key]
    return next((stage for stage, kinds in STAGES.items() if {node["type"], node["title"]} & set(kinds)), _REST)


def _columns(level: Level, columns: Iterable[list[int]]) -> Layout:
    layout, x = Layout(), 0
    for keys in columns:
        y, width = 0, max(level.nodes[key]["size"][0] for key in keys)
        for key in keys:
            level.nodes[key]["size"][0] = width
            layout.places[key] = (x, y)
            y += _height(level, key) + TITLE + ROW_GAP
        layout.bottom = max(layout.bottom, y - TITLE - ROW_GAP)
        x += width + COLUMN_GAP
    return layout


def _height(level: Level, key: int) -> int:
    """A node's height with its report."""
    node = level.nodes[key]
    return int(node["size"][1]) + _REPORT.get(node["type"], _REPORT.get(node["title"], 0))


def _box(level: Level, layout: Layout, key: int) -> tuple[int, int, int, int]:
    (x, y), width = layout.places[key], level.nodes[key]["size"][0]
    return x, y, x + width, y + _height(level, key)


def _frame(number: int, title: str, boxes: list[tuple[int, int, int, int]]) -> dict[str, Any]:
    left, top = min(box[0] for box in boxes) - FRAME, min(box[1] for box in boxes) - TITLE - FRAME_TITLE
    right, bottom = max(box[2] for box in boxes) + FRAME, max(box[3] for box in boxes) + FRAME
    bounding = [left, top, right - left, bottom - top]
    return {"id": number, "title": title, "bounding": bounding, "color": FRAME_COLOR, "font_size": 24, "flags": {}}


def _bend(level: Level, layout: Layout, columns: list[list[int]]) -> None:
    """Lead wires within a column through the gap above their target, and those past columns below everything."""
    place = {key: (number, row) for number, keys in enumerate(columns) for row, key in enumerate(keys)}
    lanes: dict[tuple[int, int], int] = {}
    for link in level.links:
        column, target_column = place[link.source][0], place[link.target][0]
        if column == target_column:
            layout.bends[link.id] = _through_the_gap(link, level, layout)
        elif target_column > column + 1:
            lane = lanes.setdefault((link.source, link.slot), len(lanes))
            layout.bends[link.id] = _below(link, level, layout, layout.bottom + _LANES_BELOW + lane * _LANE)


def _through_the_gap(link: Link, level: Level, layout: Layout) -> list[Place]:
    left, top, _, _ = _box(level, layout, link.target)
    right = _box(level, layout, link.source)[2]
    y = top - TITLE - ROW_GAP // 2 + _LANE * (link.socket - 1)
    return [(right + _BEND, y), (left - _BEND, y)]


def _below(link: Link, level: Level, layout: Layout, y: int) -> list[Place]:
    right, left = _box(level, layout, link.source)[2], _box(level, layout, link.target)[0]
    aside = 2 * _BEND + (y - layout.bottom - _LANES_BELOW) // 2
    return [(right + aside, y), (left - aside, y)]


def reroutes(bends: Mapping[int, list[Place]]) -> dict[str, Any]:
    """The editor's reroutes for the bends of wires: what ``extra`` holds of them."""
    points: list[dict[str, Any]] = []
    ends = []
    for link, places in bends.items():
        for number, place in enumerate(places):
            parent = {"parentId": len(points)} if number else {}
            points.append({"id": len(points) + 1, **parent, "pos": list(place), "linkIds": [link]})
        ends.append({"id": link, "parentId": len(points)})
    return {"reroutes": points, "linkExtensions": ends} if points else {}
