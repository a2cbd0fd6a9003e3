"""What all processes together use of a GPU's memory, as nvidia-smi shows it."""

from __future__ import annotations

import shutil
import subprocess

_QUERY = ("--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0")


def device_memory_gb() -> float | None:
    """The first GPU's; None without nvidia-smi.

    To be asked after a run that is timed, not during it: every call starts a process that talks to the driver.
    """
    program = shutil.which("nvidia-smi")
    shown = subprocess.run([program, *_QUERY], capture_output=True, text=True).stdout.strip() if program else ""
    return int(shown) * 2**20 / 1e9 if shown.isdigit() else None
