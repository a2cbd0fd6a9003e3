"""An engine of our own: ComfyUI's HTTP and websocket API over the nodes of this package, on CPU or GPU."""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import RylaError

NEEDED = ("aiohttp", "numpy", "PIL", "psutil", "safetensors", "tokenizers", "torch")


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


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # Not even the package around it.
        return False
