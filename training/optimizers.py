"""Who moves which weight: Muon the matrices that it is given, AdamW the rest; both under one schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .muon import Muon


class Optimizers:
    """AdamW with the rate ``peak`` for ``parameters``, but Muon with ``matrix_peak`` for those of them in ``matrices``.

    Rates are tensors: a step that was captured as a CUDA graph reads them anew.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], peak: float, matrices: Sequence[nn.Parameter], matrix_peak: float
    ) -> None:
        device = parameters[0].device
        self._peaks = (peak, matrix_peak)
        self._rates = [torch.tensor(peak, device=device) for peak in self._peaks]
        hidden = set(map(id, matrices))
        rest = [parameter for parameter in parameters if id(parameter) not in hidden]
        cuda = device.type == "cuda"
        adam = torch.optim.AdamW(
            rest, lr=self._rates[0], betas=(0.9, 0.98), weight_decay=0.01, fused=cuda, capturable=cuda
        )
        self._all: list[torch.optim.Optimizer] = [adam, *([Muon(matrices, self._rates[1])] if matrices else [])]
        self._owner = {p: o for o in self._all for group in o.param_groups for p in group["params"]}

    def moments(self, parameter: nn.Parameter) -> dict[str, Any]:
        """What is kept for ``parameter``."""
        return self._owner[parameter].state[parameter]

    def restore(self, parameter: nn.Parameter, moments: dict[str, Any]) -> None:
        self._owner[parameter].state[parameter] = moments

    def set_rate(self, share: float) -> None:
        """Every rate to ``share`` of its peak."""
        for rate, peak in zip(self._rates, self._peaks, strict=True):
            rate.fill_(share * peak)

    def step(self) -> None:
        """Move every weight by its gradient, and forget that."""
        for optimizer in self._all:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
