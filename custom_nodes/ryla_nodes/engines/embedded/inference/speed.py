"""FLUX.1's blocks compiled, and in 8 bits, in a clone of a model of the embedded engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from .... import settings
from ...loading import unread
from ...protocol import SpeedMode
from ...speed import ahead, artifact, cache, compiler, fp8, keeping, layers, machine, report
from ...speed.artifact import Kept
from ...speed.fp8 import Fp8Linear
from . import flux_network
from .flux import FluxModel
from .flux_network import attend, modulated
from .sampling import Model
from .weights import CastLinear, Network, shallow_clone

_TRACED = (__name__, flux_network.__name__, fp8.__name__)


@dataclass(frozen=True)
class AcceleratedNetwork(Network):
    """A network whose module runs as ``mode`` says; its compiled code is kept in the folder ``cache_name``."""

    accelerated: ClassVar[bool] = True

    mode: SpeedMode = "exact"
    cache_name: str = ""

    @cached_property
    def module(self) -> nn.Module:
        """A clone of the patched module: what stays in its precision is shared with the base."""
        ahead.wait()
        cache.use(settings.load().volume, self.cache_name)
        # Tensors of inference mode beside others would be other graphs.
        with torch.inference_mode(False), torch.no_grad():
            return self._accelerated()

    def _accelerated(self) -> nn.Module:
        module = shallow_clone(self.merged())
        double, single = module.get_submodule("double_blocks"), module.get_submodule("single_blocks")
        if self.mode == "fast":
            places = list(layers.places(double.children(), single.children()))
            device = places[0].linear.weight.device
            for place, layer in zip(places, keeping.made(places), strict=True):
                place.put(layer)
            keeping.begin(self.base, settings.load().volume, device)
        unread.read_all(module)  # For exact all that is left in its file.
        for parent, gelu, _ in list(layers.gelus(double.children(), single.children())):
            parent._modules[gelu] = layers.instead_of_gelu(parent, gelu)
        kept = artifact.kept(settings.load().volume, self.cache_name, self.mode, _TRACED)
        for block in double.children():
            _run_by(block, _double, (1, 1, -1, 0), kept)
        for block in single.children():
            _run_by(block, _single, (1, -1, 0), kept)
        return module


def accelerate(model: Model, mode: SpeedMode) -> tuple[Model, str]:
    """A clone of ``model`` that runs as ``mode`` says, and what was done in one line."""
    if not isinstance(model, FluxModel):
        return model, report.OFF if mode == "off" else report.unchanged(mode, "this engine speeds up FLUX.1 only")
    network = model.transformer.network
    if mode == "off":
        return (_with(model, Network(network.base, network.patches)) if network.accelerated else model), report.OFF
    reason = _unfit(network.base) or machine.refusal(mode, model.device)
    if reason:
        return model, report.unchanged(mode, reason)
    shape = model.transformer.shape
    name = cache.name_of(model.device, mode, (shape.hidden, shape.double_blocks, shape.single_blocks))
    note = cache.use(settings.load().volume, name)
    faster = AcceleratedNetwork(network.base, network.patches, mode, name)
    return _with(model, faster), report.done(mode, note)


def _with(model: FluxModel, network: Network) -> FluxModel:
    return replace(model, transformer=replace(model.transformer, network=network))


def _unfit(module: nn.Module) -> str | None:
    """Why the weights cannot run compiled."""
    if any(isinstance(child, CastLinear) for child in module.modules()):
        return "its weights are quantised (take weight_dtype default)"
    return None


def _run_by(block: nn.Module, function: compiler.Function, lengths: tuple[int, ...], kept: Kept | None) -> None:
    def call(*tensors: torch.Tensor) -> Any:
        return compiler.run(function, block, tensors, lengths, kept)

    block._compiled_call_impl = call


def _double(block: Any, picture: torch.Tensor, text: torch.Tensor, vector: torch.Tensor, rope: torch.Tensor) -> Any:
    return block.forward(picture, text, vector, rope)


def _single(block: Any, x: torch.Tensor, vector: torch.Tensor, rope: torch.Tensor) -> Any:
    """A single block; an 8-bit last layer takes its two inputs as they are, not put side by side first."""
    shift, scale, gate = block.modulation(vector)
    qkv, inside = block.linear1(modulated(x, shift, scale)).split(block.widths, dim=-1)
    query, key, value = block.norm(qkv)
    both = attend(query, key, value, rope), block.mlp_act(inside)
    out = block.linear2(*both) if isinstance(block.linear2, Fp8Linear) else block.linear2(torch.cat(both, dim=-1))
    return x + gate * out
