"""The process that packages blocks ahead of time. See ``making``, whose orders come by its standard input."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ...files import replacing, sha256, write_whole
from ...models.locks import locked
from . import artifact, child, flags, fp8, toolchain, trial
from .artifact import LONGEST, Call, shortest
from .layout import layout_of
from .making import Order
from .trial import Trial

LOCK = "making.lock"
_TYPICAL = (4096, 512)  # Kernels are chosen for it: a picture of 1024 x 1024 and a long text.


class Taken(Exception):
    """Another process makes packages in this folder."""


def main() -> None:
    """Make the package that is ordered; nothing where another process is at it."""
    with suppress(Taken):
        make(child.begin())


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
    untouched = pickle.dumps(order)
    with (
        flags.as_in(order.flags),
        torch.no_grad(),
        tempfile.TemporaryDirectory(dir=path.parent) as folder,
    ):
        _compare(order)
        toolchain.choose_compiler(Path(folder))
        if order.device.type == "cuda":
            toolchain.prepare_for_gpu(Path(folder))
        made, sums = _packaged(order, Path(folder, "made.pt2"))
        trial.attempt(Trial(pickle.loads(untouched), made, sums))
        with replacing(path) as part:
            shutil.copyfile(made, part)
    about = {"facts": order.facts, "sums": sums, "sha256": sha256(path)}
    write_whole(path.with_suffix(".json"), json.dumps(about, indent=1).encode())


def _compare(order: Order) -> None:
    here = json.loads(json.dumps(artifact.surroundings(order.call)))
    other = [f"{name} ({value}, not {order.facts[name]})" for name, value in here.items() if value != order.facts[name]]
    if other:
        raise RuntimeError(f"another process of this machine has other {' and '.join(other)}")


def _packaged(order: Order, path: Path) -> tuple[Path, dict[int, list[int]]]:
    """The package at ``path``, and of which lengths the tensors' are sums."""
    call, names, state = _with_fakes(order)
    program, backends = _exported(call, names, state)
    sums = _sums(program, len(state), call.lengths)
    with _backends(backends):
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return path, sums


def _with_fakes(order: Order) -> tuple[Call, list[str], list[torch.Tensor]]:
    """The call with tensors that have no memory but a device, and the block's, by their names."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def fake(tensor: torch.Tensor, shape: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
        with mode:
            return torch.empty_strided(shape, stride, dtype=tensor.dtype, device=order.device)

    call, layout = order.call, layout_of(order.call.block)
    weights = {name: each for name, each in zip(layout.names, layout.state(), strict=True) if each is not None}
    tensors = [
        fake(each, shape, torch.empty(shape, device="meta").stride())
        for each, shape in zip(call.tensors, trial.shapes(call, _TYPICAL), strict=True)
    ]
    state = [fake(each, each.shape, each.stride()) for each in weights.values()]
    return replace(call, tensors=tensors), list(weights), state


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
    shapes = ([None] * len(state), [_dynamic(call, number) for number in range(len(call.lengths))])
    with watch:
        program = export(_Free(call, names), (state, list(call.tensors)), dynamic_shapes=shapes, strict=False)
    return program, watch.backends


def _dynamic(call: Call, number: int) -> dict[int, Any] | None:
    """Tokens [B, N, C] bring a length of their own, for all of which the program must hold; others follow from it."""
    length = call.lengths[number]
    if length < 0:
        return None
    own = Dim(f"length{number}", min=shortest(call.device), max=LONGEST)
    return {length: own if length == 1 else Dim.AUTO}


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
    symbols = {size.node.expr: own for own, size in reversed(sizes.items()) if isinstance(size, torch.SymInt)}
    for number, size in sizes.items():
        parts = size.node.expr.free_symbols if isinstance(size, torch.SymInt) else ()
        if not parts or size.node.expr - sum(parts) != 0:
            raise ValueError(f"the length of input {number} is {size}")
        found[number] = sorted(symbols[part] for part in parts)
    return found


@contextmanager
def _backends(backends: list[SDPBackend]) -> Iterator[None]:
    """The same kinds of attention while the program is lowered, which is when one is chosen."""
    if not backends:
        yield
        return
    with sdpa_kernel(backends, set_priority=True):
        yield
