"""What a speed mode says that it did."""

from __future__ import annotations

from typing import Any

from ..protocol import SPEED_MODES, SpeedMode

OFF = "Speed off."
WRAPPER = "ryla_speed"
"""The key of what a mode hangs on a MODEL of ComfyUI."""
NODE = "RYLA_FluxSpeed"
_DONE: dict[SpeedMode, str] = {
    "off": OFF,
    "exact": "Speed exact: the blocks run compiled.",
    "fast": "Speed fast: the blocks run compiled, with their matrices in 8 bits.",
}


def asked(prompt: Any) -> set[SpeedMode]:
    """The modes that a graph in ComfyUI's API format asks for, but "off"; it may be anything."""
    nodes = prompt.values() if isinstance(prompt, dict) else ()
    speeds = [node for node in nodes if isinstance(node, dict) and node.get("class_type") == NODE]
    given = [node["inputs"].get("mode") for node in speeds if isinstance(node.get("inputs"), dict)]
    return {mode for mode in SPEED_MODES if mode != "off" and mode in given}


def done(mode: SpeedMode, note: str = "") -> str:
    """The line of a mode that is on; ``note`` is what else there is to say."""
    return f"{_DONE[mode]} {note[:1].upper()}{note[1:]}.".removesuffix(" .")


def replayed(mode: SpeedMode) -> str:
    """The line of a mode of SDXL that is on."""
    return f"Speed {mode}: the steps of SDXL and its ControlNets are replayed, with the same result."


def unchanged(mode: SpeedMode, reason: str) -> str:
    """The line of a mode that cannot be had."""
    return f"Speed {mode} is not used, the model is unchanged: {reason}."
