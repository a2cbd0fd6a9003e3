"""Where the tensors of a block hang, and what the block is made of: found once, looked over at each call."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterator
from functools import cache
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .traced import SIMPLE, digest_of, place_of

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BY_HAND = ("forward", "weight_function", "bias_function")  # The last two are ComfyUI's.
_Named = list[tuple[str, nn.Module]]


class Layout:
    """Of one block, none of whose tensors it keeps alive.

    Attributes:
        names: of the block's parameters and buffers, in the order of ``state``.
        structure: a digest of all modules: their classes' ``forward``, and such settings as their code reads.
    """

    def __init__(self, block: nn.Module) -> None:
        modules = list(block.named_modules(remove_duplicate=False))
        self._hooks = [getattr(module, name) for _, module in modules for name in _HOOKS]
        self._children = [
            (weakref.ref(module), name, weakref.ref(child))
            for _, module in modules
            for name, child in module._modules.items()
            if child is not None
        ]
        self._slots = [
            (weakref.ref(module), tuple(module._parameters), tuple(module._buffers)) for _, module in modules
        ]
        self.names = [
            f"{prefix}.{name}".removeprefix(".")
            for prefix, module in modules
            for name in (*module._parameters, *module._buffers)
        ]
        self.structure = _digest(modules)

    def holds(self) -> bool:
        """Whether the block still has the same modules."""
        for owner, name, child in self._children:
            module = owner()
            if module is None or module._modules.get(name) is not child():
                return False
        return True

    def is_plain(self) -> bool:
        """Whether its modules do what their classes do: none is hooked, has its weights patched at each call, or was
        given a ``forward`` by hand.
        """
        if any(self._hooks):
            return False
        settings = [vars(owner()) for owner, _, _ in self._slots]
        return not any(each.get(name) for each in settings for name in _BY_HAND)

    def state(self) -> list[torch.Tensor | None]:
        """The block's parameters and buffers as they are now."""
        found: list[torch.Tensor | None] = []
        for owner, parameters, buffers in self._slots:
            module = owner()
            assert module is not None
            found += [module._parameters.get(name) for name in parameters]
            found += [module._buffers.get(name) for name in buffers]
        return found


_known: WeakKeyDictionary[nn.Module, Layout] = WeakKeyDictionary()


def layout_of(block: nn.Module) -> Layout:
    """The layout of ``block``, found anew when its modules have changed."""
    layout = _known.get(block)
    if layout is None or not layout.holds():
        layout = _known[block] = Layout(block)
    return layout


def _digest(modules: _Named) -> str:
    return hashlib.sha256(json.dumps(list(_parts(modules))).encode()).hexdigest()[:16]


def _parts(modules: _Named) -> Iterator[list[Any]]:
    for prefix, module in modules:
        kind: Any = type(module)
        read = _read_by(kind)
        settings = {name: value for name, value in module.__dict__.items() if name in read and _is_simple(value)}
        yield [prefix, place_of(kind), digest_of(kind.forward), sorted(settings.items())]


def _is_simple(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(each, SIMPLE) for each in value)
    return isinstance(value, SIMPLE)


@cache
def _read_by(kind: Any) -> frozenset[str]:
    """The names that the class's functions read."""
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    functions = (value for each in own for value in vars(each).values() if isinstance(value, FunctionType))
    return frozenset(name for function in functions for name in function.__code__.co_names)
