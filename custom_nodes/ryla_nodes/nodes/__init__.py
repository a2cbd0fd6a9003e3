"""The nodes of the pack. One class a node, thin: files, maths and engines live elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engines.schema import io


def node_classes() -> list[type[io.ComfyNode]]:
    """Every node of the pack, as ComfyUI and the embedded engine register them."""
    from ..engines.schema.classes import defined_in

    return defined_in(__name__)
