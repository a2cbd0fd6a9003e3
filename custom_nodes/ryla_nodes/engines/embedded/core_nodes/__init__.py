"""ComfyUI's own node classes, as far as the shipped workflows use them: same names, inputs and results.

Each module lists its classes in ``NODES``.
"""

from __future__ import annotations

import importlib
import pkgutil

from ...schema import io


def core_classes() -> list[type[io.ComfyNode]]:
    """The classes of every module of this folder."""
    modules = (importlib.import_module(f"{__name__}.{name}") for _, name, _ in pkgutil.iter_modules(__path__))
    return [cls for module in sorted(modules, key=lambda module: module.__name__) for cls in module.NODES]
