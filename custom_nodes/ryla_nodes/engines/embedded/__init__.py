"""An engine of our own: ComfyUI's HTTP and websocket API over the nodes of this package, on CPU or GPU."""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import RylaError

NEEDED = ("aiohttp", "accelerate", "diffusers", "psutil", "torch", "transformers")


def require() -> None:
    """Check that the packages of the ``embedded`` extra are there, without importing them.

    Raises:
        RylaError: ``embedded_not_installed`` naming those that are not.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise RylaError("embedded_not_installed", f"The embedded engine needs {', '.join(missing)}.", missing=missing)
