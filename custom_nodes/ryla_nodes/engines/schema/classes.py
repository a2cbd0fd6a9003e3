"""Find the node classes of a folder, so that a new one is written in one file and listed nowhere."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from . import io


def defined_in(package: str) -> list[type[io.ComfyNode]]:
    """Every node class that a module of ``package`` defines: by the modules' names, then in the order of the file."""
    folder = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder))
    return [cls for name in names for cls in _defined(f"{package}.{name}")]


def _defined(module: str) -> Iterator[type[io.ComfyNode]]:
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, type) and issubclass(value, io.ComfyNode) and value.__module__ == module:
            yield value
