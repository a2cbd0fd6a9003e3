"""The process that packages blocks ahead of time. See ``making``, whose orders come by its standard input."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import sympy
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ...files import replacing, sha256, write_whole
from ...models.locks import locked
from . import artifact, fp8, toolchain
from .artifact import LONGEST, SHORTEST, Call
from .layout import layout_of
from .making import Order

LOCK = "making.lock"
_TYPICAL = (4096, 512)


class Taken(Exception):
    """Another process makes packages in this folder."""


def main() -> None:
    """Make all packages that are ordered; what goes wrong ends as one line, the last."""
    sys.excepthook = _say
    start = json.loads(sys.stdin.buffer.readline())
    if hasattr(os, "nice"):
        os.nice(start["nice"])
    sys.argv = start["argv"]
    sys.path += [path for path in start["path"] if path not in sys.path]
    for module, attribute, value in start["settings"]:
        setattr(importlib.import_module(module), attribute, value)
    try:
        for order in _orders(sys.stdin.buffer, start["package"]):
            make(order)
    except Taken:
        return


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    while error.__context__ is not None:  # What it began with tells more than what came of it.
        error = error.__context__
    words = next((line for line in str(error).splitlines() if line.strip()), "")
    print(f"{type(error).__name__}: {words}", file=sys.stderr)  # noqa: T201


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, package: str) -> None:
        super().__init__(file)
        self._package = package

    def find_class(self, module: str, name: str) -> Any:
        """This package is called otherwise where ComfyUI imported it from a folder of its own."""
        own = module.startswith(f"{self._package}.")
        return super().find_class(f"ryla_nodes{module[len(self._package) :]}" if own else module, name)


def _orders(file: BinaryIO, package: str) -> Iterator[Order]:
    data = io.BytesIO(file.read())
    while data.tell() < data.getbuffer().nbytes:
        yield _Unpickler(data, package).load()


def make(order: Order) -> None:
    """Make one package, unless it is there.

    Raises:
        Taken: another process is at it.
        RuntimeError, OSError, ...: whatever the compiler raises.
    """
    path = artifact.path_of(order.call.kept.folder, order.facts)
    with locked(path.parent / LOCK, _give_way):
        if artifact.opened(path, order.device) is None:
            _make(order, path)


def _give_way(_: str) -> None:
    raise Taken


def _make(order: Order, path: Path) -> None:
    if order.device.type == "cuda":
        torch.cuda.set_device(order.device)
    fp8.has_row_kernel()
    here = json.loads(json.dumps(artifact.surroundings(order.call)))
    other = [name for name, value in here.items() if value != order.facts[name]]
    if other:
        raise RuntimeError(f"another process of this machine has other {' and '.join(other)} than this one had")
    with torch.no_grad():
        call, names, state = _with_fakes(order)
        program, backends = _exported(call, names, state)
        sums = _sums(program, len(state), call.lengths)
        with _backends(backends), tempfile.TemporaryDirectory(dir=path.parent) as folder:
            if order.device.type == "cuda":
                toolchain.prepare(Path(folder))
            made = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder, "made.pt2")))
            with replacing(path) as part:
                shutil.copyfile(made, part)
    about = {"facts": order.facts, "sums": sums, "sha256": sha256(path)}
    write_whole(path.with_suffix(".json"), json.dumps(about, indent=1).encode())


def _with_fakes(order: Order) -> tuple[Call, list[str], list[torch.Tensor]]:
    """The call with tensors that have no memory but a device, and the block's, by their names."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def fake(tensor: torch.Tensor, shape: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
        with mode:
            return torch.empty_strided(shape, stride, dtype=tensor.dtype, device=order.device)

    call, layout = order.call, layout_of(order.call.block)
    weights = {name: each for name, each in zip(layout.names, layout.state(), strict=True) if each is not None}
    shapes = list(map(list, (each.shape for each in call.tensors)))
    for number, size in _typical(call.lengths).items():
        shapes[number][call.lengths[number]] = size
    tensors = [
        fake(each, shape, torch.empty(shape, device="meta").stride())
        for each, shape in zip(call.tensors, shapes, strict=True)
    ]
    state = [fake(each, each.shape, each.stride()) for each in weights.values()]
    return replace(call, tensors=tensors), list(weights), state


def _typical(lengths: Sequence[int]) -> dict[int, int]:
    """Lengths that kernels are chosen for, whatever was painted first: a picture of 1024 x 1024 and a long text."""
    own = [number for number, length in enumerate(lengths) if length == 1]
    found = dict(zip(own, _TYPICAL, strict=False))
    total = sum(found.values())
    return found | {number: total for number, length in enumerate(lengths) if length >= 0 and number not in found}


class _Watch(TorchFunctionMode):
    """Sees which kinds of attention may be taken where one is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.backends: list[SDPBackend] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            self.backends = _cur_sdpa_kernel_backends(with_priority=True)
        return function(*arguments, **(options or {}))


class _Bound(nn.Module):
    """A function of a block, called as a module."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.block, self._function = call.block, call.function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self._function(self.block, *tensors)


class _Free(nn.Module):
    """The same with the block's weights given; it has none of its own."""

    def __init__(self, call: Call, names: Sequence[str]) -> None:
        super().__init__()
        self._bound, self._names = (_Bound(call),), [f"block.{name}" for name in names]

    def forward(self, state: list[torch.Tensor], tensors: list[torch.Tensor]) -> Any:
        weights = dict(zip(self._names, state, strict=True))
        return torch.func.functional_call(self._bound[0], weights, tuple(tensors))


def _exported(call: Call, names: Sequence[str], state: list[torch.Tensor]) -> tuple[ExportedProgram, list[SDPBackend]]:
    """The program, and which kinds of attention it may take, in order."""
    watch = _Watch()
    shapes = ([None] * len(state), [_dynamic(number, length) for number, length in enumerate(call.lengths)])
    with watch:
        program = export(_Free(call, names), (state, list(call.tensors)), dynamic_shapes=shapes, strict=False)
    return program, watch.backends


def _dynamic(number: int, length: int) -> dict[int, Any] | None:
    """Tokens [B, N, C] bring a length of their own, for all of which the program must hold; others follow from it."""
    if length < 0:
        return None
    return {length: Dim(f"length{number}", min=SHORTEST, max=LONGEST) if length == 1 else Dim.AUTO}


def _sums(program: ExportedProgram, first: int, lengths: Sequence[int]) -> dict[int, list[int]]:
    """For each tensor with a length, by its number: the tensors whose lengths it is the sum of.

    Raises:
        ValueError: a length was taken for a constant, or depends on others in another way.
    """
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][first:]
    sizes = {
        number: each.shape[length]
        for number, (each, length) in enumerate(zip(inputs, lengths, strict=True))
        if length >= 0
    }
    found = {}
    for number, size in sizes.items():
        expression = _expression(size)
        symbols = {_expression(sizes[own]): own for own in reversed(sizes)}
        if isinstance(size, int) or expression - sum(expression.free_symbols) != 0:
            raise ValueError(f"the length of input {number} is {size}")
        found[number] = sorted(symbols[symbol] for symbol in expression.free_symbols)
    return found


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


@contextmanager
def _backends(backends: list[SDPBackend]) -> Iterator[None]:
    """The same kinds of attention while the program is lowered, which is when one is chosen."""
    if not backends:
        yield
        return
    with sdpa_kernel(backends, set_priority=True):
        yield
