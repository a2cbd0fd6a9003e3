"""Weights whose bytes are still in their file: who needs them reads them, who does not never pays for it.

``speed`` fast puts 8-bit layers, kept on the volume, in the place of FLUX.1's matrices, and the matrices themselves
need not be read then. Until somebody asks for more than their shape they have memory and no content. The first who
does (a step without ``fast``, a LoRA, saving, another pack) has all of the file's read, in parallel.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ...models.headers import Header
from ...models.kept import Kept
from . import layout
from .reader import Check, Reader, nothing

_PROPERTIES = (
    "shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "names", "grad", "grad_fn", "requires_grad",
    "is_leaf", "is_cpu", "is_cuda", "is_meta", "is_mps", "is_nested", "is_quantized", "is_sparse", "is_mkldnn",
)  # fmt: skip
_METHODS = (
    "size", "dim", "ndimension", "numel", "nelement", "element_size", "stride", "storage_offset", "is_contiguous",
    "is_floating_point", "is_complex", "is_inference", "is_signed", "requires_grad_", "__len__", "get_device",
)  # fmt: skip
# What asks for no content.
_FACTS: frozenset[Any] = frozenset(
    [getattr(torch.Tensor, name).__get__ for name in _PROPERTIES if hasattr(torch.Tensor, name)]
    + [getattr(torch.Tensor, name) for name in _METHODS if hasattr(torch.Tensor, name)]
    + [torch.is_floating_point, torch.is_complex, torch.numel, torch._has_compatible_shallow_copy_type]
)
# What gives the same values again.
_SAME: frozenset[Any] = frozenset([torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__])  # type: ignore[attr-defined]
_SET_DATA: Any = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class UnreadWeight(nn.Parameter):
    """A weight of ``unread``, called ``key`` in its file; an ordinary parameter once it is read."""

    unread: Unread | None = None
    key: str = ""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        given = options or {}
        if _is_waiting(arguments[0]) if arguments else False:
            if function in _SAME:
                return arguments[0]
            if function is torch.Tensor.to:
                moved = _moved(*arguments, **given)
                if moved is not None:
                    return moved
        between = function == _SET_DATA and _of_one(*arguments)
        if function not in _FACTS and not between:
            for weight in filter(_is_waiting, tree_leaves((arguments, given))):
                weight.unread.read()
        with torch._C.DisableTorchFunctionSubclass():
            return function(*arguments, **given)


class Unread:
    """Weights of a file that are to be read when they are needed; ``kept`` has them in 8 bits."""

    def __init__(self, header: Header, kept: Kept, check: Check = nothing) -> None:
        self.path, self.kept = header.path, kept
        self._header, self._check, self._state = header, check, header.path.stat()
        self._members: list[weakref.ref[UnreadWeight]] = []
        self._lock = threading.RLock()

    def weights(self, device: torch.device) -> dict[str, UnreadWeight]:
        """All of them, with memory on ``device``. Raises ``torch.OutOfMemoryError``."""
        return {name: self._weight(name, device) for name in sorted(self.kept.weights() & self._header.tensors.keys())}

    def _weight(self, key: str, device: torch.device) -> UnreadWeight:
        dtype, shape = self._header.tensors[key]
        memory = torch.empty(shape, dtype=layout.DTYPES[dtype], device=device)
        return self._join(nn.Parameter(memory, requires_grad=False), key)

    def _join(self, weight: Any, key: str) -> UnreadWeight:
        weight.__class__ = UnreadWeight
        weight.unread, weight.key = self, key
        self._members.append(weakref.ref(weight))
        return weight  # type: ignore[no-any-return]

    def adopted(self, target: nn.Parameter, source: UnreadWeight) -> None:
        """Let ``target`` be the weight ``source``, in its memory."""
        with torch._C.DisableTorchFunctionSubclass():
            target.data = _memory(source)
        self._join(target, source.key)

    def elsewhere(self, weight: UnreadWeight, device: torch.device) -> UnreadWeight:
        """The weight with memory on another device."""
        return self._weight(weight.key, device)

    def read(self) -> None:
        """Read them all to where they are.

        Raises:
            RylaError: what ``Reading.tensors`` raises; also ``unreadable_file`` for a file that was changed.
        """
        with self._lock:
            members = [weight for weight in (member() for member in self._members) if weight is not None]
            for targets in _rounds(members):
                with Reader(next(iter(targets.values())).device) as reader:
                    reader.start(self.path, into=targets, since=self._state).tensors(self._check)
            self._members.clear()
            for weight in members:
                del weight.unread, weight.key
                weight.__class__ = nn.Parameter  # type: ignore[assignment]


def of(weight: torch.Tensor) -> Unread | None:
    """What ``weight`` waits for; None when it is there."""
    return weight.unread if isinstance(weight, UnreadWeight) else None


def read_all(module: nn.Module) -> None:
    """Have all weights of a module read."""
    for weight in module.parameters():
        found = of(weight)
        if found is not None:
            found.read()


def _is_waiting(value: Any) -> bool:
    return isinstance(value, UnreadWeight) and value.unread is not None


def _of_one(target: Any, source: Any) -> bool:
    return _is_waiting(target) and _is_waiting(source) and (target.unread, target.key) == (source.unread, source.key)


def _memory(weight: UnreadWeight) -> torch.Tensor:
    """What the weight is read to, as a plain tensor."""
    with torch._C.DisableTorchFunctionSubclass():
        return weight.detach()


def _moved(weight: UnreadWeight, *arguments: Any, **options: Any) -> UnreadWeight | None:
    """``weight.to(...)`` where that converts nothing; else None."""
    try:
        device, dtype, _, form = torch._C._nn._parse_to(*arguments, **options)
    except (TypeError, RuntimeError):  # It asks for a copy.
        return None
    if dtype not in (None, weight.dtype) or form not in (None, torch.preserve_format):
        return None
    if device is None or (device.type, device.index or 0) == (weight.device.type, weight.device.index or 0):
        return weight
    assert weight.unread is not None
    return weight.unread.elsewhere(weight, device)


def _rounds(members: Iterable[UnreadWeight]) -> list[dict[str, torch.Tensor]]:
    """Memory to read to, by keys; in each round of one device, and no key twice."""
    rounds: list[tuple[torch.device, dict[str, torch.Tensor]]] = []
    seen: set[tuple[torch.device, int]] = set()
    for weight in members:
        memory = _memory(weight)
        place = memory.device, memory.data_ptr()
        if place in seen:
            continue
        seen.add(place)
        targets = next((found for device, found in rounds if device == place[0] and weight.key not in found), None)
        if targets is None:
            targets = {}
            rounds.append((memory.device, targets))
        targets[weight.key] = memory
    return [targets for _, targets in rounds]
