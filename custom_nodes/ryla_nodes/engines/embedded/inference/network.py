"""A network with patches on its weights: the base stays as it was loaded, a patched clone shares the rest with it."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional

from ....errors import RylaError


@dataclass(frozen=True)
class Patch:
    """Low-rank addition to one parameter: ``W + scale * up @ down``.

    ``up`` is [out, rank], ``down`` [rank, in]; ``scale`` is strength * alpha / rank. Source: Hu et al. 2021, LoRA.
    """

    parameter: str
    up: torch.Tensor
    down: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Network:
    """A base module and the patches that its clone gets when it is first used."""

    base: nn.Module = field(repr=False)
    patches: tuple[Patch, ...] = field(default=(), repr=False)

    def patched(self, patches: Iterable[Patch]) -> Network:
        """This network with further patches; the base is shared and never changed."""
        return replace(self, patches=(*self.patches, *patches))

    @cached_property
    def module(self) -> nn.Module:
        """The module to run: the base itself when nothing is patched."""
        if not self.patches:
            return self.base
        clone = _shallow_clone(self.base)
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


def _shallow_clone(module: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every parameter and buffer."""
    shared = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})


def _merged(weight: torch.Tensor, patches: Iterable[Patch]) -> nn.Parameter:
    # In float32 and in the order of application, as ComfyUI merges.
    merged = weight.to(torch.float32, copy=True)
    for patch in patches:
        up, down = (matrix.to(merged.device, torch.float32).flatten(1) for matrix in (patch.up, patch.down))
        merged += patch.scale * (up @ down).reshape(merged.shape)
    return nn.Parameter(merged.to(weight.dtype), requires_grad=False)


def _replace_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, parameter)
