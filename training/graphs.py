"""Captures whole training steps as CUDA graphs: small models are otherwise held up by launching their kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM = 3
"""Steps of one shape that run as they are before it is captured: compilers and allocators settle in them."""

Shapes = tuple[tuple[int, ...], ...]


class Steps:
    """Runs ``update(batch)``; on a GPU, batches of a shape seen WARM times are replayed from a captured graph.

    ``update`` must do all of its work on the device, keep no tensor, and read nothing but the batch and what was there
    when it was captured. ``stream`` is to be the current stream around ``take`` (None on a CPU).
    """

    def __init__(self, update: Callable[[dict[str, Tensor]], Tensor], device: torch.device) -> None:
        self.update = update
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool = torch.cuda.graph_pool_handle() if self.stream else None
        self._seen: dict[Shapes, int] = {}
        self._graphs: dict[Shapes, tuple[torch.cuda.CUDAGraph, dict[str, Tensor], Tensor]] = {}

    def take(self, batch: dict[str, Tensor]) -> Tensor:
        """One step; the returned value is overwritten by the next one."""
        if self.stream is None:
            return self.update(batch)
        key = tuple(tuple(value.shape) for value in batch.values())
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= WARM:
            return self.update(batch)
        if key not in self._graphs:
            self._graphs[key] = self._capture(batch)
        graph, inputs, value = self._graphs[key]
        for name, tensor in batch.items():
            inputs[name].copy_(tensor)
        graph.replay()
        return value

    def _capture(self, batch: dict[str, Tensor]) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor], Tensor]:
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream):
            value = self.update(inputs)
        return graph, inputs, value
