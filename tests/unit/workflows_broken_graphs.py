"""One graph of core nodes that any ComfyUI runs in a moment, and the ways to break it.

Shared by the tests that compare our validator with comfy-cli (offline) and with a real server (live).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Graph = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """``code`` is our first error, empty when the graph is fine; the lenient ones let it pass for a known reason."""

    name: str
    edit: Callable[[Graph], object]
    code: str = ""
    comfy_cli_lenient: bool = False
    server_lenient: bool = False

    @property
    def graph(self) -> Graph:
        graph = copy.deepcopy(GRAPH)
        self.edit(graph)
        return graph


def _node(title: str, class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title, "cnr_id": "comfy-core"}}


GRAPH: Graph = {
    "1": _node("Blank", "EmptyImage", width=64, height=64, batch_size=1, color=0),
    "2": _node("Blur", "ImageBlur", image=["1", 0], blur_radius=1, sigma=1.0),
    "3": _node("Scale", "ImageScale", image=["2", 0], upscale_method="lanczos", width=32, height=32, crop="disabled"),
    "4": _node("Result", "SaveImage", images=["3", 0], filename_prefix="broken"),
    "5": _node("Contains", "StringContains", string="abc", substring="b", case_sensitive=True),
    "6": _node("Shown", "PreviewAny", source=["5", 0]),
}


def _set(node_id: str, name: str, value: Any) -> Callable[[Graph], object]:
    return lambda graph: graph[node_id]["inputs"].update({name: value})


def _add(key: str, value: Any) -> Callable[[Graph], object]:
    return lambda graph: graph.update({key: value})


def _drop(*node_ids: str) -> Callable[[Graph], object]:
    return lambda graph: [graph.pop(node_id) for node_id in node_ids]


VARIANTS = (
    Variant("as it is", lambda graph: None),
    Variant("a number as a text", _set("2", "blur_radius", "2")),
    Variant("a fault in a node that no output needs", _add("9", _node("Spare", "EmptyImage", width=-1))),
    Variant("unknown class", lambda graph: graph["2"].update(class_type="ImageBlurr"), "missing_class"),
    Variant("stray _meta", _add("_meta", {"title": "x"}), "stray_key", comfy_cli_lenient=True),
    Variant("stray version", _add("version", 0.4), "stray_key", comfy_cli_lenient=True),
    Variant("no class", lambda graph: graph["5"].pop("class_type"), "missing_class_type"),
    Variant("link to no node", _set("3", "image", ["8", 0]), "dangling_link"),
    Variant("link to no output", _set("3", "image", ["2", 3]), "dangling_link"),
    # Python takes an index from the end.
    Variant("link to a negative output", _set("3", "image", ["2", -1]), "dangling_link", server_lenient=True),
    Variant("link of three", _set("3", "image", ["2", 0, 0]), "bad_link"),
    Variant("link to a number", _set("3", "image", [2, 0]), "bad_link"),
    Variant("link of another type", _set("3", "image", ["5", 0]), "type_mismatch"),
    Variant("required input absent", lambda graph: graph["2"]["inputs"].pop("sigma"), "missing_input"),
    Variant("inputs absent", lambda graph: graph["2"].update(inputs={}), "missing_input"),
    Variant("below the range", _set("2", "blur_radius", 0), "out_of_range"),
    Variant("above the range", _set("2", "sigma", 1000.0), "out_of_range"),
    Variant("a text for a number", _set("2", "blur_radius", "abc"), "wrong_type"),
    Variant("nothing for a number", _set("2", "blur_radius", None), "wrong_type"),
    Variant("a truth value for a number", _set("2", "blur_radius", True), "wrong_type", server_lenient=True),
    Variant("a fraction for a whole number", _set("2", "blur_radius", 1.5), "wrong_type", server_lenient=True),
    Variant("a text for a truth value", _set("5", "case_sensitive", "false"), "wrong_type", server_lenient=True),
    Variant("a choice misspelled", _set("3", "upscale_method", "lancos"), "not_in_list"),
    Variant("no choice", _set("3", "upscale_method", None), "not_in_list"),
    Variant("a value for a link", _set("3", "image", "photo.png"), "wrong_type", server_lenient=True),
    Variant("a circle", _set("2", "image", ["3", 0]), "cycle"),
    Variant("no output", _drop("4", "6"), "no_output"),
)
