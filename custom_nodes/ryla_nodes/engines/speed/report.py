"""What a speed mode says that it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..protocol import SPEED_MODES, SpeedMode

OFF = "Speed off."
WRAPPER = "ryla_speed"
"""The key of what a mode hangs on a MODEL of ComfyUI."""
NODE = "RYLA_FluxSpeed"
_SDXL = "RYLA_SDXLLoader"
"""What it loads needs no compiler."""
_DONE: dict[SpeedMode, str] = {
    "off": OFF,
    "exact": "Speed exact: the blocks run compiled.",
    "fast": "Speed fast: the blocks run compiled, with their matrices in 8 bits.",
}


def asked(prompt: Any) -> set[SpeedMode]:
    """The modes that a graph in ComfyUI's API format asks for of FLUX.1, but "off"; it may be anything."""
    nodes = {key: node for key, node in prompt.items() if _is_node(node)} if isinstance(prompt, dict) else {}
    speeds = [node for node in nodes.values() if node["class_type"] == NODE]
    given = [node["inputs"].get("mode") for node in speeds if _loader(nodes, node) != _SDXL]
    return {mode for mode in SPEED_MODES if mode != "off" and mode in given}


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("inputs"), dict) and isinstance(node.get("class_type"), str)


def _loader(nodes: Mapping[str, Any], node: Any) -> str:
    """The class of the first node of those that hand on the MODEL that ``node`` takes."""
    for _ in nodes:
        link = node["inputs"].get("model")
        found = nodes.get(link[0]) if isinstance(link, list) and link and isinstance(link[0], str) else None
        if found is None:
            break
        node = found
    return str(node["class_type"])


def done(mode: SpeedMode, note: str = "") -> str:
    """The line of a mode that is on; ``note`` is what else there is to say."""
    return f"{_DONE[mode]} {note[:1].upper()}{note[1:]}.".removesuffix(" .")


def replayed(mode: SpeedMode) -> str:
    """The line of a mode of SDXL that is on."""
    return f"Speed {mode}: the steps of SDXL and its ControlNets are replayed, with the same result."


def unchanged(mode: SpeedMode, reason: str) -> str:
    """The line of a mode that cannot be had."""
    return f"Speed {mode} is not used, the model is unchanged: {reason}."
