"""Linear layers that multiply in 8 bits.

Weights and activations are e4m3 with one scale a row (a token's, an output's): the scale of an activation is found at
each call. Source of the formats: Micikevicius et al. 2022, FP8 Formats for Deep Learning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

DTYPE = torch.float8_e4m3fn
_LARGEST = torch.finfo(DTYPE).max
_SMALLEST_SCALE = 1e-12
MULTIPLE = 16  # What the product asks of a matrix's sides.


def quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [N, K] as e4m3 [N, K] and the scales [N, 1] in float32 that bring it back."""
    wide = x.float()
    scale = (wide.abs().amax(dim=-1, keepdim=True) / _LARGEST).clamp(min=_SMALLEST_SCALE)
    # A multiplication is far cheaper than a division; 448 and a last bit still round to 448.
    return (wide * scale.reciprocal()).to(DTYPE), scale


class Gelu(nn.Module):
    """GELU in its tanh form, written with a sigmoid: the same function, at a fraction of the instructions.

    Source: Hendrycks and Gimpel 2016, with tanh(z) = 2 sigmoid(2 z) - 1.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        twice = 1.5957691216057308 * wide * (1 + 0.044715 * wide * wide)  # 2 sqrt(2 / pi)
        out: torch.Tensor = (wide * torch.sigmoid(twice)).to(x.dtype)
        return out


GELU = Gelu()


_row_kernel: bool | None = None


def has_row_kernel() -> bool:
    """Whether the operator of ``row_kernel`` is there; it is defined by the first who asks."""
    global _row_kernel
    if _row_kernel is None:
        try:
            from . import row_kernel  # noqa: F401
        except ImportError:  # No Triton, or one without e4m3.
            _row_kernel = False
        else:
            _row_kernel = True
    return _row_kernel


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    gelu: bool = False,
) -> torch.Tensor:
    """``x`` [N, K] times the transpose of ``weight`` [M, K] (e4m3) with its ``scale`` [M, 1]: [N, M] like ``x``.

    Args:
        gelu: send ``x`` through GELU first, on a GPU by the kernel.
    """
    rows: torch.Tensor
    row_scale: torch.Tensor
    if gelu and x.is_cuda and has_row_kernel():
        rows, row_scale = torch.ops.ryla.quantised_gelu(x)
    else:
        rows, row_scale = quantised(GELU(x) if gelu else x)
    if not x.is_cuda:  # The same rounding, for machines that have no such product.
        out = (rows.float() * row_scale) @ (weight.float() * scale).t()
        return (out if bias is None else out + bias.float()).to(x.dtype)
    out = torch._scaled_mm(
        rows,
        weight.t(),
        scale_a=row_scale,
        scale_b=scale.t(),
        bias=None if bias is None else bias.to(torch.bfloat16),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return out.to(x.dtype)


class Fp8Linear(nn.Module):
    """Stands for a linear layer whose input is one tensor, or several side by side.

    Args:
        linear: taken over: its weight is quantised, its bias used as it is.
        widths: of the parts of the input; each is scaled by itself.
        gelu: the last part goes through GELU first, which whoever puts the layer in place leaves out before it.
        empty: only have memory for that; somebody else fills it.
    """

    def __init__(
        self,
        linear: nn.Linear,
        widths: Sequence[int] = (),
        *,
        gelu: bool = False,
        empty: bool = False,
    ) -> None:
        super().__init__()
        self.widths = list(widths or (linear.in_features,))
        self.gelu = gelu
        rows, device = linear.out_features, linear.weight.device
        for index, width in enumerate(self.widths):
            self.register_buffer(f"weight{index}", torch.empty(rows, width, dtype=DTYPE, device=device))
            self.register_buffer(f"scale{index}", torch.empty(rows, 1, device=device))
        self.bias = linear.bias
        if not empty:
            self.take(linear)

    def take(self, linear: nn.Linear) -> None:
        """Quantise the weight of ``linear`` anew, in the memory that is there."""
        for index, part in enumerate(torch.split(linear.weight, self.widths, dim=1)):
            weight, scale = quantised(part)
            getattr(self, f"weight{index}").copy_(weight)
            getattr(self, f"scale{index}").copy_(scale)
        self.bias = linear.bias

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """[..., M] of ``parts``, whose last sizes are the widths; one tensor may hold them all."""
        if len(parts) < len(self.widths):
            parts = torch.split(parts[0], self.widths, dim=-1)
        bias: torch.Tensor | None = self.bias
        total: torch.Tensor | None = None
        for index, part in enumerate(parts):
            rows = part.reshape(-1, part.shape[-1])
            weight, scale = getattr(self, f"weight{index}"), getattr(self, f"scale{index}")
            last = index == len(self.widths) - 1
            out = product(rows, weight, scale, bias, gelu=self.gelu and last)
            bias, total = None, out if total is None else total + out
        assert total is not None
        return total.view(*parts[0].shape[:-1], -1)


def fits(*sides: int) -> bool:
    """Whether the product takes matrices of these sides."""
    return all(side % MULTIPLE == 0 for side in sides)


def size_of(linear: nn.Linear, parts: int = 1) -> int:
    """Bytes of the layer in 8 bits: its weight and the scales of its ``parts``."""
    return linear.weight.numel() + parts * 4 * linear.out_features
