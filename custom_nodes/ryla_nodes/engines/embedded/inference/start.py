"""The import of torch, which is half of a short process's time."""

from __future__ import annotations

import gc
import os
import sys

# GNU OpenMP's threads wait for each other by spinning, for milliseconds: where other programs use the cores, too, the
# one that all wait for does not get to run, and a picture takes up to ten times as long. This is about a microsecond.
_SPINS = "1000"


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
