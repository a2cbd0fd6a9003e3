"""The code that the compiler follows through a block, as it is in this process: other packs may have changed it."""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from types import CodeType, FunctionType
from typing import Any

PACKAGE = __name__.removesuffix(".engines.speed.traced")
SIMPLE = (bool, int, float, str, type(None))


class Code:
    """The functions in the namespaces of modules.

    Attributes:
        digest: of what they are called and do.
    """

    def __init__(self, modules: tuple[str, ...]) -> None:
        spaces = [vars(importlib.import_module(module)) for module in modules]
        self._functions = [
            (space, name, value)
            for space in spaces
            for name, value in space.items()
            # The compiler puts what it made beside what it made that of, as `__compiled_fn_1` and the like.
            if isinstance(value, FunctionType) and not name.startswith("__")
        ]
        parts = sorted((name, digest_of(function)) for _, name, function in self._functions)
        self.digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def holds(self) -> bool:
        """Whether they are still the same."""
        return all(space.get(name) is function for space, name, function in self._functions)


_known: dict[tuple[str, ...], Code] = {}


def code_of(modules: tuple[str, ...]) -> Code:
    """The functions of ``modules``, looked through anew when somebody has replaced one."""
    code = _known.get(modules)
    if code is None or not code.holds():
        code = _known[modules] = Code(modules)
    return code


@cache
def digest_of(function: Any) -> str:
    """A digest of a function's instructions, or of the kind of what else is called."""
    code = getattr(function, "__code__", None)
    text = repr(type(function)) if code is None else repr(_instructions(code))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _instructions(code: CodeType) -> tuple[Any, ...]:
    constants = [
        _instructions(each) if isinstance(each, CodeType) else each
        for each in code.co_consts
        if isinstance(each, (CodeType, *SIMPLE))
    ]
    return code.co_code, code.co_names, constants


def place_of(kind: Any) -> str:
    """Module and name of a class or function; this package may have a name of its own within ComfyUI."""
    return f"{own_name(kind.__module__)}:{kind.__qualname__}"


def own_name(module: str) -> str:
    """A module's name, as it is where this package is called ``ryla_nodes``."""
    own = module == PACKAGE or module.startswith(f"{PACKAGE}.")
    return f"ryla_nodes{module[len(PACKAGE) :]}" if own else module
