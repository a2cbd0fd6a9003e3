"""Muon (Jordan et al., 2024): momentum whose matrix is made orthogonal, so that every direction learns as fast.

The rate is in AdamW's scale (Liu et al., 2025, "Muon is Scalable"). Unlike torch's own this one can be captured in a
CUDA graph, for its rate is a tensor, and works on all matrices of a shape together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOMENTUM, DECAY = 0.95, 0.01
_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrix of each of (B, rows, columns): singular values between 0.7 and 1.2."""
    # A CPU has no fast bfloat16.
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.float().norm(dim=(1, 2), keepdim=True).clamp_min(1e-7).to(x.dtype)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices alone: the hidden layers' weights."""

    def __init__(self, matrices: Sequence[nn.Parameter], rate: Tensor) -> None:
        super().__init__(matrices, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for matrix in group["params"]:
                alike.setdefault(tuple(matrix.shape), []).append(matrix)
            for shape, matrices in alike.items():
                self._update(matrices, group["lr"], 0.2 * max(shape) ** 0.5)

    def _update(self, matrices: list[nn.Parameter], rate: Tensor, scale: float) -> None:
        for matrix in matrices:
            if "momentum" not in self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(matrix)
        moments, gradients = [self.state[m]["momentum"] for m in matrices], [m.grad for m in matrices]
        torch._foreach_lerp_(moments, gradients, 1 - MOMENTUM)
        step = orthogonal(torch.stack(torch._foreach_lerp(gradients, moments, MOMENTUM))) * (scale * rate)
        torch._foreach_mul_(matrices, 1 - rate * DECAY)
        torch._foreach_sub_(matrices, list(step.unbind()))
