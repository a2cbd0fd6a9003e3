"""The compiler made ready while weights are read.

Of a first compilation in a process most is not the compilation: the compiler's own modules are imported, Triton's
library is read through for its digest, the driver's helpers are loaded. A small block that has what FLUX.1's blocks
have goes through all of it as soon as a job is known that will need it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ..protocol import SpeedMode
from . import artifact, cache, machine
from .fp8 import GELU, Fp8Linear, has_row_kernel

_WIDTH, _HEADS, _TOKENS = 64, 2, 32


@torch.no_grad()
def warm(mode: SpeedMode, device: torch.device, volume: Path | None) -> None:
    """Compile the small block as ``mode`` has blocks, unless this machine cannot; kept like the blocks themselves.

    Where an earlier process has compiled the blocks ahead, that is loaded instead.
    """
    if mode == "off" or machine.refusal(mode, device) or artifact.load_ahead(volume, mode, device):
        return
    cache.use(volume, cache.name_of(device, f"small {mode}", (_WIDTH,)))
    block = _Small(device, eighths=mode == "fast")
    x = torch.zeros(1, _TOKENS, _WIDTH, dtype=torch.bfloat16, device=device)
    has_row_kernel()  # Its operator has to be there before the compiler looks for it.
    torch._dynamo.maybe_mark_dynamic(x, 1)
    try:
        torch.compile(_run)(block, x)
    except (RuntimeError, OSError, ImportError) as error:  # The blocks themselves will tell.
        logging.debug("ryla: the compiler could not be made ready: %s", error)


def _run(block: _Small, x: torch.Tensor) -> torch.Tensor:
    return block.forward(x)


class _Small(nn.Module):
    """A single block in small: normalisation, attention, GELU, and the layers as the mode has them."""

    def __init__(self, device: torch.device, *, eighths: bool) -> None:
        super().__init__()
        first, last = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(2 * _WIDTH, _WIDTH)
        for layer in (first, last):
            layer.to(device, torch.bfloat16).requires_grad_(False)
        widths = (_WIDTH, _WIDTH)
        self.first: nn.Module = Fp8Linear(first) if eighths else first
        self.last: nn.Module = Fp8Linear(last, widths, gelu=True) if eighths else last
        self.eighths = eighths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = torch.addcmul(x, functional.layer_norm(x, (_WIDTH,)), 1 + x)
        query, key, value = self.first(normed).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key = (functional.rms_norm(each, (_WIDTH // _HEADS,)) for each in (query, key))
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        both = (mixed, normed) if self.eighths else (torch.cat((mixed, GELU(normed)), dim=-1),)
        out: torch.Tensor = x + self.last(*both)
        return out
