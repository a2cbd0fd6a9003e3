"""A try: GELU, the row's maximum and the cast to 8 bits of ``speed`` fast in one Triton kernel, each row read once.

flux_step.py measures it beside what the compiler makes of the same three. ``TRITON_INTERPRET=1 python row_kernel.py``
compares it on a CPU with the product's own functions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

_CONFIGS = [triton.Config({}, num_warps=warps) for warps in (4, 8, 16)]


@triton.jit
def rows(x, out, scale, stride, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row of ``x`` to e4m3 in ``out``, and what brings it back in ``scale``; through GELU before, if asked."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < COLUMNS
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        twice = 1.5957691216057308 * value * (1 + 0.044715 * value * value)
        value = (value * tl.sigmoid(twice)).to(tl.bfloat16).to(tl.float32)
    found = tl.maximum(tl.max(tl.abs(value), axis=0) / 448.0, 1e-12)
    tl.store(scale + row, found)
    tl.store(out + row * COLUMNS + column, (value * (1.0 / found)).to(tl.float8e4nv), mask=inside)


tuned = triton.autotune(configs=_CONFIGS, key=["COLUMNS", "GELU"])(rows)


def quantised(x: torch.Tensor, gelu: bool, kernel: Any = tuned) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [N, K] in bfloat16, its last dimension dense, as e4m3 [N, K] and the scales [N, 1]."""
    count, columns = x.shape
    out = torch.empty((count, columns), dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty((count, 1), dtype=torch.float32, device=x.device)
    kernel[(count,)](x, out, scale, x.stride(0), COLUMNS=columns, BLOCK=triton.next_power_of_2(columns), GELU=gelu)
    return out, scale


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "custom_nodes"))
    from ryla_nodes.engines.speed import fp8, layers

    x = torch.randn(7, 3 * 192, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)[:, 192:]
    for gelu in (False, True):
        values, scale = quantised(x, gelu, rows)
        truth, wanted = fp8.quantised(layers.Gelu()(x) if gelu else x)
        back, there = values.float() * scale, truth.float() * wanted
        print(gelu, float((scale - wanted).abs().max()), float((back - there).norm() / there.norm()))


if __name__ == "__main__":
    main()
