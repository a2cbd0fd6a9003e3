"""Run by a ComfyUI's own Python: the Triton kernel of ``speed`` fast. Prints one JSON line.

``values``: in Triton's interpreter beside PyTorch's own functions. ``shapes``: the operator as the compiler sees it,
with tensors that have no memory.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

WHAT = sys.argv[1]
os.environ["TRITON_INTERPRET"] = "1" if WHAT == "values" else "0"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "custom_nodes"))

import torch  # noqa: E402
import torch.fx.experimental.proxy_tensor as tracing  # noqa: E402
from ryla_nodes.engines.speed import fp8  # noqa: E402

if not fp8.has_row_kernel():
    sys.stdout.write(json.dumps({"triton": False}))
    sys.exit()

import triton  # noqa: E402
from ryla_nodes.engines.speed import row_kernel  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch._subclasses.functional_tensor import dispatch_functionalize  # noqa: E402


def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel makes of ``x``, on the CPU."""
    count, columns = x.shape
    out = torch.empty((count, columns), dtype=torch.float8_e4m3fn)
    scale = torch.empty((count, 1))
    block = triton.next_power_of_2(columns)
    row_kernel.one_row[(count,)](x, out, scale, x.stride(0), COLUMNS=columns, BLOCK=block)
    return out, scale


def compare(x: torch.Tensor) -> dict[str, float]:
    values, scale = run(x)
    wanted, wanted_scale = fp8.quantised(fp8.GELU(x))
    steps = (values.view(torch.uint8).int() - wanted.view(torch.uint8).int()).abs()
    # The interpreter loses the carry where rounding reaches the next power of 2, and is at half of it: 8 steps below;
    # what is below e4m3's smallest normal number it cuts off.
    sound = ((steps - 8).abs() > 1) & (wanted.float().abs() >= 2**-6)
    return {
        "scale": float(((scale - wanted_scale) / wanted_scale).abs().max()),
        "steps": int(steps[sound].max()),
        "equal": float((steps == 0).float().mean()),
    }


def values() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(9, 3 * 192, generator=generator) * torch.logspace(-4, 3, 9)[:, None]
    rows = {"whole": wide, "beside others": wide[:, 192:], "of a power of 2": wide[:, :256]}
    rows = {name: value.to(torch.bfloat16) for name, value in rows.items()} | {"float": wide}
    nothing = run(torch.zeros(2, 64, dtype=torch.bfloat16))
    zero = [float(nothing[0].float().abs().max()), float(nothing[1].min())]
    return {"rows": {name: compare(value) for name, value in rows.items()}, "zero": zero}


def shapes() -> dict[str, object]:
    with FakeTensorMode():
        x = torch.empty(5, 96, dtype=torch.bfloat16, device="cuda")
        made = torch.ops.ryla.quantised_gelu(x)
        graph = tracing.make_fx(dispatch_functionalize(torch.ops.ryla.quantised_gelu))(x)
    return {
        "made": [[str(each.dtype), list(each.shape), each.device.type] for each in made],
        "kernels": sum("triton_kernel_wrapper" in str(node.target) for node in graph.graph.nodes),
    }


sys.stdout.write(json.dumps({"triton": True, **(values() if WHAT == "values" else shapes())}))
