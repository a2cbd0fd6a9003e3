"""What a speed mode says that it did."""

from __future__ import annotations

from ..protocol import SpeedMode

OFF = "Speed off."
WRAPPER = "ryla_speed"
"""The key of what a mode hangs on a MODEL of ComfyUI."""
_DONE: dict[SpeedMode, str] = {
    "off": OFF,
    "exact": "Speed exact: the blocks run compiled.",
    "fast": "Speed fast: the blocks run compiled, with their matrices in 8 bits.",
}


def done(mode: SpeedMode, note: str = "") -> str:
    """The line of a mode that is on; ``note`` is what else there is to say."""
    return f"{_DONE[mode]} {note[:1].upper()}{note[1:]}.".removesuffix(" .")


def unchanged(mode: SpeedMode, reason: str) -> str:
    """The line of a mode that cannot be had."""
    return f"Speed {mode} is not used, the model is unchanged: {reason}."
