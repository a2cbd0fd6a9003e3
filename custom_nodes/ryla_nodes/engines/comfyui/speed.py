"""FLUX.1's blocks compiled, and in 8 bits, while a MODEL samples in ComfyUI.

All of it hangs on one wrapper around ``apply_model`` that clones of the MODEL carry along. It changes the blocks for
the length of a step and puts everything back, so whoever else holds the same weights finds them as they were, and
LoRAs, hooks, ControlNets and block replacements act as ever. When the weights are not on the card as they should be
(partly offloaded, or hooked), the step runs as it is.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management as management
import comfy.options
import torch
from comfy.ldm.flux.layers import attention
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ... import settings
from ..loading import unread
from ..protocol import SpeedMode
from ..speed import ahead, artifact, cache, child, compiler, fp8, keeping, layers, machine, report
from ..speed.artifact import Kept
from ..speed.fp8 import Fp8Linear
from ..speed.keeping import Eighths
from ..speed.layers import Place
from . import replay, wrapping
from .wrapping import KEY

_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
# Patches that act inside of a block, where a compiled one would pass them by; "post_input" acts before the blocks.
_OUTSIDE_PATCHES = {"post_input"}
_LATENT_SCALE = 8
_FOLLOWED = (  # Of ComfyUI's versions, each has some.
    "comfy.ldm.flux.layers",
    "comfy.ldm.flux.math",
    "comfy.ldm.modules.attention",
    "comfy.ldm.common_dit",
    "comfy.ops",
    "comfy.quant_ops",
    "comfy.rmsnorm",
    "comfy_kitchen",
)
_TRACED = (__name__, fp8.__name__, *(name for name in _FOLLOWED if name in sys.modules))
child.first_settings.append(("comfy.options", "args_parsing", comfy.options.args_parsing))


@dataclass(frozen=True)
class _Kind:
    """The tensors of a kind of block, in the order in which it takes them, and their ``lengths`` for the compiler."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]


_DOUBLE = _Kind(("img", "txt", "vec", "pe"), (1, 1, -1, 2))
_SINGLE = _Kind(("x", "vec", "pe"), (1, -1, 2))


def accelerate(model: Any, mode: SpeedMode) -> tuple[Any, str]:
    """A clone of ``model`` with the wrapper of ``mode`` in place of an earlier one's, and what was done in one line."""
    if mode == "off":
        return wrapping.without(model), report.OFF
    if replay.fits(model):
        return replay.accelerate(model, mode)
    reason = _unfit(model) or machine.refusal(mode, model.load_device)
    if reason:
        return model, report.unchanged(mode, reason)
    name = cache.name_of(model.load_device, mode, _shape(model))
    volume = settings.load().volume
    note = cache.use(volume, name)
    clone = wrapping.without(model).clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _Wrapper(mode, volume, name))
    clone.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, release)
    return clone, report.done(mode, note)


def _unfit(model: Any) -> str | None:
    """Why a MODEL cannot run compiled, as far as it shows before it is on the card."""
    network = model.model.diffusion_model
    if type(network).__name__ != "Flux" or not all(hasattr(block, "img_mod") for block in network.double_blocks):
        return "it is neither a FLUX.1 model nor an SDXL one"
    misplaced = wrapping.misplaced(model)
    if misplaced:
        return misplaced
    linear = [place.linear for place in _places(network)]
    if any(not type(each).__module__.startswith("comfy.ops") for each in linear):
        return f"its layers are another extension's ({type(linear[0]).__module__})"
    dtypes = {each.weight.dtype for each in linear}
    read = (each.weight.data for each in linear if unread.of(each.weight) is None)
    if not dtypes <= set(_FLOATS) or any(type(each) is not torch.Tensor for each in read):
        return "its weights are quantised (take weight_dtype default)"
    if any(block._compiled_call_impl is not None for block in _blocks(network)):
        return "another node has compiled its blocks"
    return None


def _shape(model: Any) -> tuple[int, ...]:
    network = model.model.diffusion_model
    return network.hidden_size, len(network.double_blocks), len(network.single_blocks)


def _blocks(network: Any) -> Iterator[Any]:
    yield from network.double_blocks
    yield from network.single_blocks


def _places(network: Any) -> Iterator[Place]:
    return layers.places(network.double_blocks, network.single_blocks)


@dataclass
class _Fp8:
    """A network's layers in 8 bits, of the weights with the patches ``of``."""

    of: Any = None
    modules: list[tuple[Place, Fp8Linear]] = field(default_factory=list)
    made: Eighths | None = None


_kept: WeakKeyDictionary[Any, _Fp8] = WeakKeyDictionary()


def release(patcher: Any, unpatch_all: bool = True) -> None:
    """Let the 8-bit weights go with those that they were made of."""
    if unpatch_all:
        _kept.pop(patcher.model, None)


@dataclass(frozen=True)
class _Wrapper:
    """Runs one step of the network with its blocks as ``mode`` says."""

    mode: SpeedMode
    volume: Path | None
    cache_name: str

    def __call__(self, executor: Any, *arguments: Any, **options: Any) -> Any:
        base = executor.class_obj
        reason = _hindrance(base)
        if reason is None:
            ahead.wait()
            cache.use(self.volume, self.cache_name)
            with ExitStack() as stack:
                if self.mode == "fast":
                    reason = _quantise(base, arguments[0])
                    if reason is None:
                        keeping.begin(base.diffusion_model, self.volume, arguments[0].device)
                        stack.enter_context(_swapped(_kept[base]))
                if reason is None:
                    kept = artifact.kept(self.volume, self.cache_name, self.mode, _TRACED)
                    _announce(self.mode, arguments[0], kept)
                    stack.enter_context(_compiled(base.diffusion_model, kept))
                    if self.mode == "fast":
                        step = partial(executor, *arguments, **options)
                        _finish(base, step, _is_alone(*arguments, **options), kept)
                    return executor(*arguments, **options)
        unread.read_all(base.diffusion_model)
        wrapping.say_once(f"speed {self.mode} is not used: {reason}")
        wrapping.tell(f"{_size(arguments[0])}, speed {self.mode} is not used: {reason}")
        return executor(*arguments, **options)


_compiled_for: set[tuple[Any, ...]] = set()


def _announce(mode: SpeedMode, latent: torch.Tensor, kept: Kept | None) -> None:
    """Say on the node that runs how it runs, and there and in the log that a step will wait for the compiler."""
    kind = (mode, latent.device, latent.dtype)
    if kind in _compiled_for:
        wrapping.tell(f"{_size(latent)}, speed {mode}")
        return
    _compiled_for.add(kind)
    compiling = f"speed {mode}: compiling the blocks (once, up to 20 s; 4 s when kept on the volume)"
    line = f"speed {mode}: the blocks were compiled ahead" if artifact.is_filled(kept) else compiling
    logging.info("ryla: %s", line)
    wrapping.tell(line)


def _size(latent: torch.Tensor) -> str:
    """The picture's size: a side of FLUX.1's latents is an eighth of it."""
    return f"{latent.shape[-1] * _LATENT_SCALE} x {latent.shape[-2] * _LATENT_SCALE} px"


def _hindrance(base: Any) -> str | None:
    """Why the weights that are loaded now cannot run compiled."""
    if base.model_lowvram:
        _kept.pop(base, None)
    return wrapping.hindrance(base)


def _quantise(base: Any, latent: torch.Tensor) -> str | None:
    """Make the 8-bit layers of the patches that are loaded; why there is no room for them, else None."""
    known = _kept.setdefault(base, _Fp8())
    if known.modules and known.of == base.current_weight_patches_uuid:
        return None
    places = [place for place in _places(base.diffusion_model) if not place.linear.weight_function]
    if not known.modules:
        reason = _make_room(base, latent, sum(place.size for place in places))
        if reason:
            return reason
        known.made = Eighths(places)
        known.modules = list(zip(places, known.made.layers, strict=True))
    else:
        for place, module in known.modules:
            module.take(place.linear)
    known.of = base.current_weight_patches_uuid
    return None


def _finish(base: Any, step: Callable[[], Any], alone: bool, kept: Kept | None) -> None:
    """Have all weights there that a step needs; the compiler works while they are read, if it has to."""
    known = _kept[base]
    if known.made is None:
        return
    try:
        if alone and known.made.reading and not artifact.is_filled(kept):
            step()  # Of weights that are not there yet: only what is compiled for it is wanted.
        known.made.finish()
        unread.read_all(base.diffusion_model)  # What is not kept, if anything.
    except BaseException:
        _kept.pop(base, None)
        known.made.close()
        raise
    known.made = None


def _is_alone(*arguments: Any, **options: Any) -> bool:
    """Whether nobody but us would notice one step more."""
    given = dict(zip(("x", "t", "c_concat", "c_crossattn", "control", "transformer_options"), arguments, strict=False))
    given |= options
    known = given.get("transformer_options") or {}
    wrapped = [key for found in known.get("wrappers", {}).values() for key, calls in found.items() if calls]
    hooked = known.get("patches") or known.get("patches_replace")
    return not (given.get("control") or hooked) and set(wrapped) <= {KEY}


def _make_room(base: Any, latent: torch.Tensor, size: int) -> str | None:
    """Unload other models until ``size`` bytes and a step of sampling fit; what is missing when they cannot."""
    need = size + base.memory_required([latent.shape[0], *latent.shape[1:]]) + management.minimum_inference_memory()
    if management.get_free_memory(latent.device) < need:
        own = [each for each in management.current_loaded_models if each.model and each.model.model is base]
        management.free_memory(need, latent.device, keep_loaded=own)
    free = management.get_free_memory(latent.device)
    if free >= need:
        return None
    return f"its 8-bit weights need {need / 1e9:.1f} GB beside the model, and {free / 1e9:.1f} GB are free"


@contextmanager
def _swapped(known: _Fp8) -> Iterator[None]:
    """Let the 8-bit layers stand in for the others."""
    try:
        for place, module in known.modules:
            place.put(module)
        yield
    finally:
        for place, _ in known.modules:
            place.put(place.linear)


@contextmanager
def _compiled(network: Any, kept: Kept | None) -> Iterator[None]:
    """Let calls of the blocks run compiled functions, with GELUs that compile well."""
    gelus = list(layers.gelus(_blocks(network)))
    try:
        for parent, name, _ in gelus:
            parent._modules[name] = layers.instead_of_gelu(parent, name)
        for block in network.double_blocks:
            block._compiled_call_impl = partial(_call, kept, block, _DOUBLE, _double)
        for block in network.single_blocks:
            function = _single_in_parts if _takes_parts(block) else _single
            block._compiled_call_impl = partial(_call, kept, block, _SINGLE, function)
        yield
    finally:
        for block in _blocks(network):
            block.__dict__.pop("_compiled_call_impl", None)
        for parent, name, gelu in gelus:
            parent._modules[name] = gelu


def _call(kept: Kept | None, block: Any, kind: _Kind, function: Any, *arguments: Any, **options: Any) -> Any:
    """A call of a block by core: ``function`` in its place, unless somebody asks for more than the block alone."""
    given = dict(zip((*kind.names, "attn_mask"), arguments, strict=False)) | options
    tensors = [given.pop(name, None) for name in kind.names]
    if not _is_plain(block, given) or any(tensor is None for tensor in tensors):
        return block._call_impl(*arguments, **options)
    return compiler.run(function, block, tensors, kind.lengths, kept)


def _is_plain(block: Any, more: dict[str, Any]) -> bool:
    """Whether nothing but the block's tensors matters; ``more`` is what else it is called with."""
    known = more.pop("transformer_options", None) or {}
    inside = set(known.get("patches", {})) - _OUTSIDE_PATCHES
    hooked = block._forward_hooks or block._forward_pre_hooks or "forward" in block.__dict__
    asked = any(value is not None for value in more.values())
    return not (asked or inside or hooked or "optimized_attention_override" in known)


def _takes_parts(block: Any) -> bool:
    """Whether the last layer of a single block of FLUX.1 is one in 8 bits, with the GELU before it inside."""
    return isinstance(block.linear2, Fp8Linear) and block.linear2.gelu


def _double(block: Any, img: torch.Tensor, txt: torch.Tensor, vec: torch.Tensor, pe: torch.Tensor) -> Any:
    return block.forward(img=img, txt=txt, vec=vec, pe=pe)


def _single(block: Any, x: torch.Tensor, vec: torch.Tensor, pe: torch.Tensor) -> Any:
    return block.forward(x, vec=vec, pe=pe)


def _single_in_parts(block: Any, x: torch.Tensor, vec: torch.Tensor, pe: torch.Tensor) -> torch.Tensor:
    """A single block whose 8-bit last layer takes its two inputs as they are, not put side by side first."""
    how, _ = block.modulation(vec)
    inside = block.linear1(torch.addcmul(how.shift, block.pre_norm(x), 1 + how.scale))
    qkv, fed = inside.split((3 * block.hidden_size, block.mlp_hidden_dim), dim=-1)
    query, key, value = qkv.unflatten(-1, (3, block.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = attention(*block.norm(query, key, value), value, pe=pe)
    return torch.addcmul(x, block.linear2(mixed, fed), how.gate)
