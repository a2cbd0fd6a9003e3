"""Functions of a block and tensors, compiled at their first call: one graph for all blocks of a kind and all sizes.

Batches run sample by sample: one sample fills a GPU, and so a batch needs no graph of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

Function = Callable[..., Any]

_failed: dict[Function, str] = {}


@lru_cache(maxsize=32)
def _compiled(function: Function) -> Function:
    return torch.compile(function)


def run(function: Function, block: torch.nn.Module, tensors: Sequence[torch.Tensor], lengths: Sequence[int]) -> Any:
    """``function(block, *tensors)``, compiled; as it is when it cannot be compiled, which is logged once.

    Args:
        tensors: [B, ...] or [1, ...], what is alike for all samples.
        lengths: for each tensor its dimension that goes with the picture's size or the text's length; -1: it has none,
            0: the tensor has no dimension for samples.
    """
    if function in _failed:
        return function(block, *tensors)
    batch = max(len(tensor) for tensor, dimension in zip(tensors, lengths, strict=True) if dimension)
    if batch == 1:
        return _run(function, block, tensors, lengths)
    done = [_run(function, block, _sample(tensors, lengths, number, batch), lengths) for number in range(batch)]
    return torch.cat(done) if isinstance(done[0], torch.Tensor) else tuple(map(torch.cat, zip(*done, strict=True)))


def _sample(
    tensors: Sequence[torch.Tensor], lengths: Sequence[int], number: int, batch: int
) -> tuple[torch.Tensor, ...]:
    pairs = zip(tensors, lengths, strict=True)
    return tuple(each[number : number + 1] if dimension and len(each) == batch else each for each, dimension in pairs)


def _run(function: Function, block: torch.nn.Module, tensors: Sequence[torch.Tensor], lengths: Sequence[int]) -> Any:
    for tensor, dimension in zip(tensors, lengths, strict=True):
        if dimension >= 0:
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)
    try:
        return _compiled(function)(block, *tensors)
    except (torch._dynamo.exc.TorchDynamoException, OSError) as error:
        _failed[function] = str(error)
        logging.warning("ryla: blocks cannot be compiled here, and run as they are: %s", error)
        return function(block, *tensors)
