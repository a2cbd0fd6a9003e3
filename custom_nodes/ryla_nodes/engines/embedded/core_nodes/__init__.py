"""ComfyUI's own node classes, as far as the shipped workflows use them: same names, inputs and results."""

from __future__ import annotations

from ...schema import io
from ...schema.classes import defined_in


def core_classes() -> list[type[io.ComfyNode]]:
    """The classes of every module of this folder."""
    return defined_in(__name__)
