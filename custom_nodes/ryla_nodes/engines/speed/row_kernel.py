"""GELU, a row's largest value and the cast to 8 bits in one Triton kernel that reads each row once.

What the compiler makes of ``fp8.quantised(gelu(x))`` reads rows of 12,288 three times. To import this registers the
operator ``torch.ops.ryla.quantised_gelu``; it needs Triton. It serves tensors of a GPU only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

if not hasattr(tl, "float8e4nv"):
    raise ImportError("this Triton has no e4m3")

_CONFIGS = [triton.Config({}, num_warps=warps) for warps in (4, 8, 16)]


@triton.jit  # type: ignore[untyped-decorator]
def one_row(x, out, scale, stride, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """GELU of one row of ``x`` as e4m3 in ``out``, and what brings it back in ``scale``: rounded as by ``fp8.Gelu``."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < COLUMNS
    value = tl.load(x + row * stride + column, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    twice = 1.5957691216057308 * wide * (1 + 0.044715 * wide * wide)
    wide = (wide * tl.sigmoid(twice)).to(value.dtype).to(tl.float32)
    found = tl.maximum(tl.max(tl.abs(wide), axis=0) / 448.0, 1e-12)
    tl.store(scale + row, found)
    tl.store(out + row * COLUMNS + column, (wide * (1.0 / found)).to(tl.float8e4nv), mask=inside)


tuned = triton.autotune(configs=_CONFIGS, key=["COLUMNS"])(one_row)


@triton_op("ryla::quantised_gelu", mutates_args=(), schema="(Tensor x) -> (Tensor, Tensor)")
def quantised_gelu(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """GELU of ``x`` [N, K], its last dimension dense, as e4m3 [N, K] and the scales [N, 1] in float32."""
    count, columns = x.shape
    out = torch.empty((count, columns), dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty((count, 1), dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(columns)
    wrap_triton(tuned)[(count,)](x, out, scale, x.stride(0), COLUMNS=columns, BLOCK=block)
    return out, scale
