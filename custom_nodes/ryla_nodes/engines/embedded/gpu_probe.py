"""Describe what the embedded engine has to paint with, as JSON on stdout; ``ryla doctor`` starts it.

A process of its own: PyTorch takes seconds and memory to import, and the doctor has to outlive one that cannot be.
"""

from __future__ import annotations

import json
import sys

import torch

from ..protocol import SPEED_MODES
from ..speed import machine


def main() -> None:
    """What the process does."""
    found: dict[str, object] = {"torch": torch.__version__, "gpu": ""}
    if torch.cuda.is_available():
        device = torch.device("cuda")
        free, memory = torch.cuda.mem_get_info(device)
        found |= {"gpu": torch.cuda.get_device_name(device), "memory": memory, "free": free}
        found["refusals"] = {mode: machine.refusal(mode, device) for mode in SPEED_MODES if mode != "off"}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
