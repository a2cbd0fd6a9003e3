"""Torch's import, which is half of a short process's time, and where the networks run in which precision."""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# GNU OpenMP's threads wait for each other by spinning, for milliseconds: where other programs use the cores, too, the
# one that all wait for does not get to run, and a picture takes up to ten times as long. This is about a microsecond.
_SPINS = "1000"


@dataclass(frozen=True)
class Placement:
    """A device and the dtype that networks compute in there."""

    device: torch.device
    dtype: torch.dtype

    @property
    def stores_fp8(self) -> bool:
        """Whether weights can stay in an 8-bit float there (Metal has no such type)."""
        return self.device.type != "mps"


def best() -> Placement:
    """CUDA or Metal in bfloat16 when there is one, else the CPU in float32."""
    import torch

    if torch.cuda.is_available():
        return Placement(torch.device("cuda"), torch.bfloat16)
    if torch.backends.mps.is_available():
        return Placement(torch.device("mps"), torch.bfloat16)
    return cpu()


def cpu() -> Placement:
    """The CPU in float32."""
    import torch

    return Placement(torch.device("cpu"), torch.float32)


def import_torch() -> None:
    """Import torch with the garbage collector off, and take what is there by then out of its sight.

    It would walk hundreds of thousands of objects that live to the end of the process: while they are made, whenever
    memory is given back, and at the end.
    """
    if "torch" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    collecting = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        if collecting:
            gc.enable()
    gc.freeze()
