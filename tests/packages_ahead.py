"""Blocks compiled ahead in tests: packages of the small FLUX.1, made by the real process, and functions gone wrong.

The process that tries a package imports this module.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny_flux
import torch
from ryla_nodes.engines.embedded.inference import speed
from ryla_nodes.engines.protocol import SpeedMode
from ryla_nodes.engines.speed import artifact, cache, compiler, machine, making
from ryla_nodes.engines.speed.artifact import Call, Kept
from torch.nn.attention import SDPBackend, sdpa_kernel

Loaded = tuple[Any, Any, Any]
MAKE = making._make
TURNED = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]
"""As ComfyUI does where there is a GPU: fewer kinds of attention, in an order of its own."""


@dataclass(frozen=True)
class Packaged:
    """A volume with packages; what was painted without them."""

    volume: Path
    pictures: dict[SpeedMode, torch.Tensor]
    orders: list[bytes]


def latent(loaded: Loaded, model: Any, **how: Any) -> torch.Tensor:
    return small_models.latent((model, *loaded[1:]), **how)


def as_if_started(patch: pytest.MonkeyPatch, volume: Path) -> None:
    """What a process has that has just started, with ``volume``."""
    for key in cache._VARIABLES:
        patch.delenv(key, raising=False)
    patch.setattr(cache, "_ours", {})
    patch.setattr(making, "_seen", set())
    patch.setattr(making, "_layouts", type(making._layouts)())
    patch.setattr(machine, "refusal", lambda mode, device: None)
    patch.setattr(cache, "name_of", lambda *_: "inductor-both")  # The compiler looks at the processor once a folder.
    patch.setenv("RYLA_VOLUME", str(volume))
    patch.delenv("RYLA_AHEAD", raising=False)
    cache._prepare.cache_clear()
    artifact.forget()


def make(loaded: Loaded, volume: Path, chosen: Callable[[list[bytes]], list[bytes]]) -> Packaged:
    """Paint with ``exact`` and ``fast``, and make packages for those of the four orders that ``chosen`` leaves."""
    orders: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        as_if_started(patch, volume)
        patch.setattr(compiler, "_compiled", lambda function: function)  # Only the packages are really compiled.
        patch.setattr(making, "_make", lambda given: orders.extend(chosen(given)) or MAKE(orders))
        patch.setenv("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")  # Quicker to make.
        pictures = {mode: latent(loaded, speed.accelerate(loaded[0], mode)[0]) for mode in ("exact", "fast")}
        making.wait()
    return Packaged(volume, pictures, orders)  # type: ignore[arg-type]


def forget_folders() -> None:
    """Leave nothing of them to other tests."""
    artifact.forget()
    for key in cache._VARIABLES:
        os.environ.pop(key, None)


def single(packaged: Packaged, loaded: Loaded, tokens: int = 24, number: int = 0) -> Call:
    """A call of one of the single blocks in ``exact``."""
    model = speed.accelerate(loaded[0], "exact")[0]
    network = model.transformer.network  # type: ignore[attr-defined]
    block = network.module.single_blocks[number]
    folder = cache.folder(packaged.volume, network.cache_name)
    assert folder is not None
    generator = torch.Generator().manual_seed(number)
    shapes = ((1, tokens, tiny_flux.HIDDEN), (1, tiny_flux.HIDDEN), (tokens, 64, 2))
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return Call(Kept(folder, "exact", speed._TRACED), speed._single, block, tensors, (1, -1, 0))


def crashing(block: Any, *tensors: torch.Tensor) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def without_memory(block: Any, *tensors: torch.Tensor) -> Any:
    raise torch.OutOfMemoryError("out of memory")


def a_tenth_off(block: Any, *tensors: torch.Tensor) -> Any:
    return speed._single(block, *tensors) * 1.1


def without_numbers(block: Any, *tensors: torch.Tensor) -> Any:
    return speed._single(block, *tensors) * float("nan")


def with_weights_in_another_order(block: Any, *tensors: torch.Tensor) -> Any:
    block.linear1.bias = torch.nn.Parameter(block.linear1.bias.flip(0), requires_grad=False)
    return speed._single(block, *tensors)


def with_kinds_of_attention(block: Any, *tensors: torch.Tensor) -> Any:
    with sdpa_kernel(TURNED, set_priority=True):
        return speed._single(block, *tensors)
