"""Functions of a block and tensors, compiled at their first call: one graph for all blocks of a kind and all sizes.

What an earlier process has compiled ahead (``artifact``) runs in their place.

Batches run sample by sample: one sample fills a GPU, and so a batch needs no graph of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch

from . import artifact, fp8, making
from .artifact import Call, Kept

Function = Callable[..., Any]

_failed: dict[Function, str] = {}


@lru_cache(maxsize=32)
def _compiled(function: Function) -> Function:
    fp8.has_row_kernel()  # Its operator has to be there before the compiler looks for it.
    return torch.compile(function)


def run(
    function: Function,
    block: torch.nn.Module,
    tensors: Sequence[torch.Tensor],
    lengths: Sequence[int],
    kept: Kept | None = None,
) -> Any:
    """``function(block, *tensors)``, compiled; as it is when it cannot be compiled, which is logged once.

    Args:
        tensors: [B, ...] or [1, ...], what is alike for all samples.
        lengths: for each tensor its dimension that goes with the picture's size or the text's length; -1: it has none,
            0: the tensor has no dimension for samples.
        kept: what was compiled ahead is looked for there, and made for the next process where it is missing.
    """
    if function in _failed:
        return function(block, *tensors)
    batch = max(len(tensor) for tensor, dimension in zip(tensors, lengths, strict=True) if dimension)
    one = partial(_run, function, block, lengths, kept)
    with making.running():
        if batch == 1:
            return one(tensors)
        done = [one(_sample(tensors, lengths, number, batch)) for number in range(batch)]
    return torch.cat(done) if isinstance(done[0], torch.Tensor) else tuple(map(torch.cat, zip(*done, strict=True)))


def _sample(
    tensors: Sequence[torch.Tensor], lengths: Sequence[int], number: int, batch: int
) -> tuple[torch.Tensor, ...]:
    pairs = zip(tensors, lengths, strict=True)
    return tuple(each[number : number + 1] if dimension and len(each) == batch else each for each, dimension in pairs)


def _run(
    function: Function,
    block: torch.nn.Module,
    lengths: Sequence[int],
    kept: Kept | None,
    tensors: Sequence[torch.Tensor],
) -> Any:
    call = Call(kept, function, block, tensors, lengths) if kept else None
    made = artifact.of(call.kept, function, call.device).serve(call) if call else None
    if made is not None:
        return made
    for tensor, dimension in zip(tensors, lengths, strict=True):
        if dimension >= 0:
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)
    try:
        made = _compiled(function)(block, *tensors)
    except (torch._dynamo.exc.TorchDynamoException, OSError) as error:
        _failed[function] = str(error)
        logging.warning("ryla: blocks cannot be compiled here, and run as they are: %s", error)
        return function(block, *tensors)
    if call:
        making.want(call)
    return made
