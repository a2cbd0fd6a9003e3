"""A package is tried in a process of its own before any other gets it: C++ that goes wrong ends the process it is in.

The block has noise for weights. What the package gives is compared with what the block gives as it is.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import child, flags, fp8
from .artifact import Artifact, Call, shortest
from .layout import layout_of
from .making import Order

TOLERANCE = 0.05
"""Of the relative error. bfloat16 and 8 bits, which round in another order, stay below a third of it."""

_SIZES = ((128, 64), (960, 80))
_SECONDS = 600.0


class Refused(Exception):
    """The package must not be used: why, in one line."""


@dataclass(frozen=True)
class Trial:
    """What is to be tried; ``sums`` as ``Artifact`` takes them."""

    order: Order
    path: Path
    sums: dict[int, list[int]]


def attempt(trial: Trial) -> None:
    """Have a process try it.

    Raises:
        Refused: it crashed, took too long or gave other numbers.
        NotNow: there was no memory for it.
        OSError: the process cannot be started.
    """
    if trial.order.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        ended = child.run("trial", 0, pickle.dumps(trial), _SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Refused(f"trying the package took more than {error.timeout:.0f} s") from None
    if ended.reason:
        sys.stderr.writelines(f"{line}\n" for line in ended.said)
        raise (child.NotNow if ended.is_passing else Refused)(f"the package was tried: {ended.reason}")


def main() -> None:
    """Try what is given, and end with an error when it is not good."""
    trial: Trial = child.begin()
    with flags.as_in(trial.order.flags), torch.inference_mode():
        _try(trial)


def _try(trial: Trial) -> None:
    device = trial.order.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    fp8.has_row_kernel()
    generator = torch.Generator(device).manual_seed(0)
    artifact = Artifact(trial.path, trial.order.facts, trial.sums, device)
    call = trial.order.call
    _fill(call.block, generator)
    least = shortest(device)
    for sizes in ((least, least), *_SIZES):
        tensors = [
            torch.randn(shape, generator=generator, device=device).to(each.dtype)
            for each, shape in zip(call.tensors, shapes(call, sizes), strict=True)
        ]
        worst = _difference(artifact, replace(call, tensors=tensors))
        if not worst <= TOLERANCE:  # NaN is not either.
            raise Refused(f"what it gives is wrong by {worst:.3f} at {' + '.join(map(str, sizes))} tokens")


def shapes(call: Call, sizes: Sequence[int]) -> list[list[int]]:
    """Of the tensors of ``call``, where those with tokens of their own [B, N, C] have ``sizes`` of them."""
    own = [number for number, length in enumerate(call.lengths) if length == 1]
    tokens = dict(zip(own, sizes, strict=False))
    found = [list(each.shape) for each in call.tensors]
    for number, length in enumerate(call.lengths):
        if length >= 0:
            found[number][length] = tokens.get(number, sum(tokens.values()))
    return found


def _difference(artifact: Artifact, call: Call) -> float:
    """The largest relative error of a result."""
    layout = layout_of(call.block)
    given = [each for each in layout.state() if each is not None]
    if not artifact.fits(call, layout, given):
        raise Refused("it does not take what it was made for")
    # Blocks may add to what they are given.
    made = artifact.run(replace(call, tensors=[each.clone() for each in call.tensors]), given)
    pairs = zip(_several(made), _several(call.function(call.block, *call.tensors)), strict=True)
    errors = [float((one.double() - wanted.double()).norm() / wanted.double().norm()) for one, wanted in pairs]
    return max(errors, key=lambda error: float("inf") if error != error else error)


def _several(made: Any) -> Sequence[torch.Tensor]:
    return [made] if isinstance(made, torch.Tensor) else made


def _fill(block: nn.Module, generator: torch.Generator) -> None:
    """Give the block's tensors memory, and such noise that each of them tells in the result."""
    for module in block.modules():
        for name, each in module._parameters.items():
            if each is not None:
                module._parameters[name] = nn.Parameter(_noise(name, each, generator), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _noise(name, buffer, generator)


def _noise(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(like.shape, generator=generator, device=generator.device)
    if like.dtype.itemsize > 1 and like.ndim > 1:
        # A column is the scales of the rows of a weight in 8 bits.
        noise = noise * like.shape[-1] ** -0.5 if like.shape[-1] > 1 else 0.02 + noise.abs() * 0.005
    elif like.ndim == 1:
        noise = noise * 0.1 + (0 if name.endswith("bias") else 1)
    made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=generator.device)
    return made.copy_(noise)
