"""Where the networks run and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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
