"""A network's kernels recorded once and launched again at once, as a CUDA graph: SDXL's wait for Python otherwise.

The same kernels in the same order: what comes out is the same to the bit. A call runs as it is the first time that
there is one of its kind, is recorded the second time, and is replayed from then on.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree

_PLAIN = (int, float, str, type(None))
MOST = 4
"""Kinds of calls that are kept of a model and its ControlNets; each holds the memory of its activations."""

Function = Callable[..., Any]


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """Launch it."""


Recorder = Callable[[Callable[[], Any]], tuple[Graph, Any]]


@dataclass(frozen=True)
class _Recorded:
    """``outputs`` of ``inputs``, which are written to before each replay; ``held`` is alive as long as the graph."""

    graph: Graph
    inputs: Sequence[Tensor]
    outputs: Any
    held: Any

    def run(self, tensors: Sequence[Tensor]) -> Any:
        torch._foreach_copy_(list(self.inputs), list(tensors))
        self.graph.replay()
        return _pytree.tree_map_only(Tensor, Tensor.clone, self.outputs)


_SEEN, _REFUSED = "seen", "refused"


def record(run: Callable[[], Any]) -> tuple[Graph, Any]:
    """``run`` as a CUDA graph, and its outputs, which hold nothing before the first replay.

    Raises:
        RuntimeError: it does something that cannot be recorded, such as waiting for the GPU.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the GPU meanwhile: one that reads weights, or keeps them.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = run()
    return graph, outputs


class Replays:
    """Recorded calls of a model's networks; ``most`` kinds, the least recently used go first."""

    def __init__(self, most: int = MOST, recorder: Recorder = record) -> None:
        self._most, self._recorder = most, recorder
        self._known: OrderedDict[Hashable, _Recorded | str] = OrderedDict()

    def call(
        self,
        function: Function,
        arguments: Sequence[Any],
        named: Mapping[str, Any],
        *,
        kind: Hashable,
        held: Any = None,
    ) -> Any:
        """``function(*arguments, **named)``.

        Args:
            kind: what else decides what is computed: the network, where its weights are (see ``places_of``) ...
            held: what ``kind`` names by its identity.
        """
        flat, spec = _pytree.tree_flatten((tuple(arguments), dict(named)))
        tensors = [each for each in flat if isinstance(each, Tensor)]
        rest = tuple(None if isinstance(each, Tensor) else each for each in flat)
        if any(not isinstance(each, _PLAIN) for each in rest):
            return function(*arguments, **named)
        key = (kind, repr(spec), rest, tuple(map(_shape, tensors)))
        known = self._known.pop(key, None)
        if known == _SEEN:
            known = self._record(function, flat, spec, held)
        elif known is None:
            known = _SEEN
            while len(self._known) >= self._most:
                self._known.popitem(last=False)
        self._known[key] = known
        return known.run(tensors) if isinstance(known, _Recorded) else function(*arguments, **named)

    def _record(self, function: Function, flat: Sequence[Any], spec: Any, held: Any) -> _Recorded | str:
        inputs = [each.clone() for each in flat if isinstance(each, Tensor)]
        given = iter(inputs)
        own = [next(given) if isinstance(each, Tensor) else each for each in flat]

        def run() -> Any:
            arguments, named = _pytree.tree_unflatten(own, spec)
            return function(*arguments, **named)

        try:
            graph, outputs = self._recorder(run)
        except RuntimeError as error:
            logging.warning("ryla: a network's kernels cannot be recorded: %s", str(error).splitlines()[0])
            return _REFUSED
        return _Recorded(graph, inputs, outputs, held)


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.device


def places_of(network: nn.Module) -> int:
    """A number for where the weights are, which is where a graph reads them. It takes some milliseconds."""
    own = (*network.parameters(), *network.buffers())
    return hash((id(network), *(each.data_ptr() for each in own)))
