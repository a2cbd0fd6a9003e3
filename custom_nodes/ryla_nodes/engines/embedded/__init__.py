"""An engine of our own: ComfyUI's HTTP and websocket API over the nodes of this package, on CPU or GPU."""

from __future__ import annotations

import gc
import os
import sys
from importlib.util import find_spec

from ...errors import RylaError

NEEDED = ("aiohttp", "numpy", "PIL", "psutil", "safetensors", "tokenizers", "torch")

# GNU OpenMP's threads wait for each other by spinning, for milliseconds: where other programs use the cores, too, the
# one that all wait for does not get to run, and a picture takes up to ten times as long. This is about a microsecond.
_SPINS = "1000"


def require(what: str = "The embedded engine", *names: str, extra: str = "embedded") -> None:
    """Check that the modules ``names`` (those of every picture when none is given) are there, without importing them.

    ``what`` needs them, and the extra ``extra`` of this package brings them.

    Raises:
        RylaError: ``embedded_not_installed`` naming those that are not.
    """
    missing = [name for name in names or NEEDED if not _is_there(name)]
    if missing:
        raise RylaError(
            "embedded_not_installed",
            f"{what} needs {', '.join(missing)}.",
            hint=f"pip install 'ryla-nodes[{extra}]'",
            missing=missing,
        )


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


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # Not even the package around it.
        return False
