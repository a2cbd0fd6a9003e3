"""The weights of a network: where they lie in which precision, read from a single-file model, given to a module.

Clones of a module share them, but for those that are patched.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from ....errors import RylaError
from ....models.headers import Header, read_header
from ...loading.reader import Reader

# A scaled 8-bit weight is `weight * scale`; older files call the scale `X.scale_weight`, newer ones `X.weight_scale`.
_SCALES = (".scale_weight", ".weight_scale")
# Facts about the quantisation of other tensors: not weights of the network.
_SIDECARS = (*_SCALES, ".scale_input", ".input_scale", ".comfy_quant")
_FORMATS = ("float8_e4m3fn", "float8_e5m2")
_FP8 = ("F8_E4M3", "F8_E5M2")
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """A device and the dtype that networks compute in there."""

    device: torch.device
    dtype: torch.dtype

    @property
    def stores_fp8(self) -> bool:
        """Whether weights can stay in an 8-bit float there (Metal has no such type)."""
        return self.device.type != "mps"


def best() -> Placement:
    """CUDA or Metal in bfloat16 when there is one, else the CPU in float32."""
    if torch.cuda.is_available():
        return Placement(torch.device("cuda"), torch.bfloat16)
    if torch.backends.mps.is_available():
        return Placement(torch.device("mps"), torch.bfloat16)
    return cpu()


def cpu() -> Placement:
    """The CPU in float32."""
    return Placement(_CPU, torch.float32)


@dataclass(frozen=True)
class WeightFile:
    """The tensors of ``path`` whose names start with ``prefix``, by their names without it."""

    path: Path
    header: Header
    prefix: str = ""

    @classmethod
    def open(cls, path: Path, prefix: str = "") -> WeightFile:
        """Read the header of ``path``. Raises what ``models.headers.read_header`` raises."""
        return cls(path, read_header(path), prefix)

    def part(self, prefix: str) -> WeightFile:
        """The tensors below ``prefix`` of the same file."""
        return WeightFile(self.path, self.header, self.prefix + prefix)

    def names(self) -> list[str]:
        """The weights' names, sorted."""
        found = (key[len(self.prefix) :] for key in self.header.tensors if key.startswith(self.prefix))
        return sorted(name for name in found if not _is_sidecar(name))

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.header.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of ``name``. Raises ``incomplete_weights`` when the file lacks it."""
        shape = self.header.shape(self.prefix + name)
        if shape is None:
            raise RylaError("incomplete_weights", f"{self.path} has no {self.prefix}{name}.", path=self.path)
        return shape

    def count(self, pattern: str) -> int:
        """How many consecutive numbers n, from 0, have a tensor that starts with ``pattern.format(n)``."""
        names = self.names()
        number = 0
        while any(name.startswith(pattern.format(number)) for name in names):
            number += 1
        return number

    def fp8(self) -> str | None:
        """The 8-bit dtype of the file's unscaled weights in safetensors' spelling, or None when they are wider."""
        dtypes = {self.header.tensors[self.prefix + name][0] for name in self.names()}
        scaled = any(name.endswith(_SCALES) for name in self.header.tensors if name.startswith(self.prefix))
        return next((dtype for dtype in _FP8 if dtype in dtypes), None) if not scaled else None

    def tensors(self, device: torch.device = _CPU, *, but: Collection[str] = ()) -> Iterator[tuple[str, torch.Tensor]]:
        """Each weight by name: scaled 8-bit ones multiplied out to float32, the others as they are.

        Args:
            device: on a CUDA device they are read to there, otherwise they are on the CPU.
            but: names to leave out.

        Raises:
            RylaError: ``unsupported_weights`` for a quantisation other than (scaled) 8-bit floats, and what
                ``loading.reader.Reader`` raises.
        """
        names = [name for name in self.names() if name not in but]
        with self._contents(device, but) as take:
            for name in names:
                key = self.prefix + name
                tensor = take(key)
                module = key.rpartition(".")[0]
                scale = next((module + suffix for suffix in _SCALES if module + suffix in self.header.tensors), None)
                if f"{module}.comfy_quant" in self.header.tensors:
                    self._require_fp8(key, bytes(take(f"{module}.comfy_quant").tolist()))
                if scale is not None and tensor.dtype.itemsize == 1:
                    tensor = tensor.float() * take(scale).float()
                yield name, tensor

    @contextmanager
    def _contents(self, device: torch.device, but: Collection[str]) -> Iterator[Callable[[str], torch.Tensor]]:
        """What gives a tensor by its key; on a GPU each weight once only, so that it can be let go."""
        if not has_bus(device):
            from safetensors import safe_open

            with safe_open(self.path, framework="pt") as file:
                yield file.get_tensor
            return
        left = {self.prefix + name for name in but}
        keys = [key for key in self.header.tensors if key.startswith(self.prefix) and key not in left]
        with Reader(device) as reader:
            found = reader.start(self.path, keys).tensors()
            yield lambda key: found[key] if _is_sidecar(key) else found.pop(key)

    def _require_fp8(self, key: str, description: bytes) -> None:
        kind = json.loads(description).get("format")
        if kind not in _FORMATS:
            raise RylaError(
                "unsupported_weights",
                f"{self.path}: {key} is quantised as {kind!r}; this engine reads {' and '.join(_FORMATS)}.",
                path=self.path,
            )


def has_bus(device: torch.device) -> bool:
    """Whether ``device`` has a memory of its own, that files are read to in parallel."""
    return device.type == "cuda"


def _is_sidecar(name: str) -> bool:
    return name.endswith(_SIDECARS) or name == "scaled_fp8"


@dataclass(frozen=True)
class Patch:
    """Low-rank addition to ``rows`` of one parameter: ``W[rows] + scale * up @ down``.

    ``up`` is [rows, rank], ``down`` [rank, in]; ``scale`` is strength * alpha / rank. Source: Hu et al. 2021, LoRA.
    """

    parameter: str
    up: torch.Tensor
    down: torch.Tensor
    scale: float
    rows: slice


@dataclass(frozen=True)
class Network:
    """A base module and the patches that its clone gets when it is first used."""

    accelerated: ClassVar[bool] = False

    base: nn.Module = field(repr=False)
    patches: tuple[Patch, ...] = field(default=(), repr=False)

    def patched(self, patches: Iterable[Patch]) -> Network:
        """This network with further patches; the base is shared and never changed."""
        return replace(self, patches=(*self.patches, *patches))

    @cached_property
    def module(self) -> nn.Module:
        """The module to run: the base itself when nothing is patched."""
        return self.merged()

    def merged(self) -> nn.Module:
        """The base, or a clone of it with the patches in its weights."""
        if not self.patches:
            return self.base
        clone = shallow_clone(self.base)
        by_parameter: dict[str, list[Patch]] = defaultdict(list)
        for patch in self.patches:
            by_parameter[patch.parameter].append(patch)
        for name, patches in by_parameter.items():
            _replace_parameter(clone, name, _merged(clone.get_parameter(name), patches))
        return clone


class CastLinear(nn.Linear):
    """A linear layer whose weights are stored in another dtype than it computes in."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return functional.linear(input, self.weight.to(input.dtype), bias)


def fill(module: nn.Module, tensors: Iterable[tuple[str, torch.Tensor]], what: str) -> nn.Module:
    """Give a module on the meta device its weights and make it ready to run.

    Args:
        module: built under ``torch.device("meta")``, or otherwise with its parameters there.
        tensors: name and tensor of every parameter; they are taken as they are, not copied.
        what: the file, for messages.

    Raises:
        RylaError: ``incomplete_weights`` for missing or mis-shaped tensors, naming the first of them.
    """
    expected = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    state = {name: tensor for name, tensor in tensors if name in expected}
    missing = sorted(expected.keys() - state.keys())
    if missing:
        raise RylaError("incomplete_weights", f"{what} lacks {len(missing)} weights, {missing[0]} for one.")
    for name, tensor in state.items():
        if tuple(tensor.shape) != expected[name]:
            shapes = f"{list(tensor.shape)}, not {list(expected[name])}"
            raise RylaError("incomplete_weights", f"{what}: the weight for {name} is {shapes}.")
    module.load_state_dict(state, strict=False, assign=True)
    for child in module.modules():
        if isinstance(child, nn.Linear) and child.weight.dtype.itemsize == 1:
            child.__class__ = CastLinear
    return module.eval().requires_grad_(False)


def shallow_clone(module: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every parameter and buffer."""
    shared = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})


def _merged(weight: torch.Tensor, patches: Iterable[Patch]) -> nn.Parameter:
    # In float32 and in the order of application, as ComfyUI merges.
    merged = weight.to(torch.float32, copy=True)
    for patch in patches:
        up, down = (matrix.to(merged.device, torch.float32).flatten(1) for matrix in (patch.up, patch.down))
        merged[patch.rows] += patch.scale * (up @ down)
    return nn.Parameter(merged.to(weight.dtype), requires_grad=False)


def _replace_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, parameter)
