"""Functions of a block and tensors, compiled at their first call: one graph for all blocks of a kind and all sizes."""

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
        lengths: for each tensor its dimension that goes with the picture's size or the text's length; -1: it has none.
    """
    if function in _failed:
        return function(block, *tensors)
    for tensor, dimension in zip(tensors, lengths, strict=True):
        _free(tensor, 0)
        if dimension >= 0:
            _free(tensor, dimension)
    try:
        return _compiled(function)(block, *tensors)
    except (torch._dynamo.exc.TorchDynamoException, OSError) as error:
        _failed[function] = str(error)
        logging.warning("ryla: blocks cannot be compiled here, and run as they are: %s", error)
        return function(block, *tensors)


def _free(tensor: torch.Tensor, dimension: int) -> None:
    """Let the compiler take the size of ``dimension`` for one of many; 1 is always a graph of its own."""
    if tensor.shape[dimension] > 1:
        torch._dynamo.maybe_mark_dynamic(tensor, dimension)
