"""SDXL's UNet and its ControlNets replayed as CUDA graphs while a MODEL samples in ComfyUI.

One wrapper around the step finds the ControlNets, one around the UNet the rest; one around the sampling draws its noise
ahead (``noise_ahead``). Clones of the MODEL carry them along.
A step that has anything in it that is not known here runs as it is: another extension's patch may do something else at
every step, and a graph would not notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management as management
from comfy.controlnet import ControlNet
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import nn

from ..protocol import SpeedMode
from ..speed import machine, replay, report
from ..speed.replay import Replays
from . import noise_ahead, wrapping
from .instantid import IdentityPatch
from .wrapping import KEY

_ARGUMENTS = ("x", "timesteps", "context", "y", "control", "transformer_options")
# What ComfyUI itself tells a network, and what of it does not change what is computed.
_PASSED = {
    "callbacks", "cond_or_uncond", "current_index", "original_shape", "patches", "patches_replace", "sample_sigmas",
    "sigmas", "transformer_index", "uuids", "block", "block_index", "wrappers", "prefetch_dynamic_vbars",
}  # fmt: skip


@dataclass
class _Step:
    """What is known of the sampling that runs: its schedule, and where the networks' weights are."""

    sigmas: Any = None
    places: dict[int, int] = field(default_factory=dict)

    def place(self, network: nn.Module, sigmas: Any) -> int:
        """``places_of``, found anew for every sampling."""
        if self.sigmas is None or self.sigmas is not sigmas:
            self.sigmas = sigmas
            self.places.clear()
        if id(network) not in self.places:
            self.places[id(network)] = replay.places_of(network)
        return self.places[id(network)]


@dataclass
class _Kept:
    """Of a model's weights: what was recorded, and what its step is."""

    replays: Replays = field(default_factory=Replays)
    step: _Step = field(default_factory=_Step)


_kept: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()


def fits(model: Any) -> bool:
    """Whether a MODEL is of a kind whose calls can be replayed."""
    return type(model.model.diffusion_model).__name__ == "UNetModel"


def accelerate(model: Any, mode: SpeedMode) -> tuple[Any, str]:
    """A clone of ``model`` whose steps are replayed, and what was done in one line."""
    reason = machine.no_graphs(model.load_device) or wrapping.misplaced(model)
    if reason:
        return model, report.unchanged(mode, reason)
    clone = wrapping.without(model).clone()
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, _with_controls)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _network)
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, noise_ahead.sample)
    clone.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, release)
    return clone, report.replayed(mode)


def release(patcher: Any, unpatch_all: bool = True) -> None:
    """Let the graphs and their memory go with the weights."""
    if unpatch_all:
        _kept.pop(patcher.model, None)


def _with_controls(executor: Any, base: Any, conds: Any, x: Any, timestep: Any, options: Any) -> Any:
    """A step, with the ControlNets in it replayed."""
    reason = _hindrance(base, x.shape)
    if reason is not None:
        _kept.pop(base, None)
        _say(reason)
        return executor(base, conds, x, timestep, options)
    kept = _kept.setdefault(base, _Kept())
    schedule = options.get("transformer_options", {}).get("sample_sigmas")
    with _replayed(kept, _controls(conds), schedule):
        return executor(base, conds, x, timestep, options)


def _controls(conds: Iterable[Any]) -> Iterator[ControlNet]:
    """The plain ControlNets of all conditionings, each once."""
    seen: set[int] = set()
    for cond in (each for group in conds if group for each in group):
        net = cond.get("control")
        while net is not None:
            if type(net) is ControlNet and id(net) not in seen:
                seen.add(id(net))
                yield net
            net = net.previous_controlnet


@contextmanager
def _replayed(kept: _Kept, nets: Iterable[ControlNet], sigmas: Any) -> Iterator[None]:
    """Let the ControlNets' networks be stood in for by their replays."""
    originals = [(net, net.control_model) for net in nets]
    try:
        for net, network in originals:
            net.control_model = _Standing(network, kept, kept.step.place(network, sigmas))
        yield
    finally:
        for net, network in originals:
            net.control_model = network


class _Standing:
    """Stands in for a ControlNet's network."""

    def __init__(self, network: nn.Module, kept: _Kept, place: int) -> None:
        self._network, self._kept, self._place = network, kept, place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._kept.replays.call(self._network, arguments, named, kind=self._place, held=self._network)


def _network(executor: Any, *arguments: Any, **named: Any) -> Any:
    """The UNet of a step, replayed where nothing speaks against it."""
    network = executor.class_obj
    base = next((base for base in list(_kept) if base.diffusion_model is network), None)
    if base is None:  # The step runs as it is, and it was said why.
        return executor(*arguments, **named)
    given = dict(zip(_ARGUMENTS, arguments, strict=False)) | named
    options = given.pop("transformer_options", None) or {}
    patches = _identities(options)
    if patches is None or _others(options):
        _say("another extension takes part in its steps")
        return executor(*arguments, **named)
    kept = _kept[base]
    # Read before anything is recorded: to look at a value waits for the GPU.
    acting = tuple(patch.acts(options["sigmas"]) for patch in patches)
    place = kept.step.place(network, options.get("sample_sigmas"))
    kind = (place, tuple(options.get("cond_or_uncond", ())), tuple(map(id, patches)), acting)
    run = partial(executor, transformer_options=options)
    return kept.replays.call(run, (), given, kind=kind, held=(network, patches))


def _identities(options: dict[str, Any]) -> Sequence[IdentityPatch] | None:
    """The patches of this pack, in their order; None where there are others."""
    found: list[IdentityPatch] = []
    for kind, patches in options.get("patches_replace", {}).items():
        for patch in patches.values():
            if kind != "attn2" or not isinstance(patch, IdentityPatch) or not patch.is_alone:
                return None
            found.append(patch)
    return found


def _others(options: dict[str, Any]) -> bool:
    """Whether anybody but this pack takes part in a step."""
    wrapped = {key for key, calls in options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).items() if calls}
    return bool(set(options) - _PASSED or wrapped != {KEY} or any(options.get("patches", {}).values()))


def _hindrance(base: Any, shape: Sequence[int]) -> str | None:
    """Why the weights that are loaded now cannot be replayed."""
    reason = wrapping.hindrance(base)
    if reason:
        return reason
    if base not in _kept and management.get_free_memory(base.device) < 2 * base.memory_required([2, *shape[1:]]):
        return "there is too little memory beside the model"
    return None


def _say(reason: str) -> None:
    line = f"SDXL is not replayed: {reason}"
    wrapping.say_once(line)
    wrapping.tell(line)
