"""Whether this machine can compile, and multiply in 8 bits; if not, why not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

import torch

from ..protocol import SpeedMode

_OLDEST_TORCH = (2, 7)  # The first whose row-wise 8-bit product runs on every GPU that has one.
_FP8_CAPABILITY = (8, 9)
_COMPILERS = ("cc", "gcc", "clang")


def refusal(mode: SpeedMode, device: torch.device) -> str | None:
    """Why ``mode`` cannot run on ``device``, for a report; None when it can."""
    if sys.platform == "win32":
        return "not supported on Windows"
    reason = no_graphs(device)
    if reason:
        return reason
    version = torch.__version__.split("+")[0]
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_TORCH:
        return f"PyTorch {version} is older than {'.'.join(map(str, _OLDEST_TORCH))}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), *_COMPILERS)))):
        return "there is no C compiler (install gcc)"
    capability = torch.cuda.get_device_capability(device)
    if mode == "fast" and capability < _FP8_CAPABILITY:
        name, has = torch.cuda.get_device_name(device), ".".join(map(str, capability))
        return f"{name} (compute capability {has}) does not multiply in 8 bits; 8.9 does"
    return None


def no_graphs(device: torch.device) -> str | None:
    """Why there are no CUDA graphs on ``device``, for a report; None when there are."""
    if device.type == "cuda" and not torch.version.hip:
        return None
    return f"the model runs on {'an AMD GPU' if device.type == 'cuda' else device.type}, not on an NVIDIA GPU"
