"""What all processes together use of a GPU's memory, as nvidia-smi shows it."""

from __future__ import annotations

import os
import shutil
import subprocess


def device_memory_gb(which: str = "used") -> float | None:
    """``used`` or ``total`` memory of the first GPU that CUDA_VISIBLE_DEVICES leaves us, or of the machine's first.

    None without nvidia-smi. To be asked after a run that is timed, not during it: every call starts a process that
    talks to the driver.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = f"--query-gpu=memory.{which}", "--format=csv,noheader,nounits"
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    shown = subprocess.run([program, *query, f"--id={first}"], capture_output=True, text=True).stdout.strip()
    return int(shown) * 2**20 / 1e9 if shown.isdigit() else None
