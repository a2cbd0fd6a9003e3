"""Describe the Python that runs this file, as JSON on stdout. Started by ``ryla doctor`` in ComfyUI's own Python.

Only the standard library is used, and nothing of this package: it is another Python that runs it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

# What half-installed and mismatched binary packages raise at import ("numpy.dtype size changed" is a ValueError).
_BROKEN = (ImportError, AttributeError, KeyError, OSError, RuntimeError, SystemError, TypeError, ValueError)


def _distributions() -> dict[str, str]:
    found = {}
    for item in importlib.metadata.distributions():
        name = item.metadata["Name"]
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = item.version
    return found


def _import(name: str) -> tuple[Any, str]:
    """The module, and why it cannot be imported (empty when it can, or when it is not installed)."""
    if importlib.util.find_spec(name) is None:
        return None, ""
    try:
        return importlib.import_module(name), ""
    except _BROKEN as error:
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def _torch_cuda() -> str | None:
    """The CUDA version that torch was built for, without the seconds of importing it."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = version.read_text(encoding="utf-8") if version and version.is_file() else ""
    match = re.search(r"^cuda[^=]*= *'([^']+)'", text, re.MULTILINE)
    return match[1] if match else None


def _cuda_fault(runtime: Any) -> str:
    """Why onnxruntime cannot load the CUDA that it offers, which it only logs; empty when it can, or offers none."""
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        return ""
    _import("torch")  # As in ComfyUI: it brings CUDA's libraries along.
    pattern = "onnxruntime_providers_{}.dll" if sys.platform == "win32" else "libonnxruntime_providers_{}.so"
    try:
        for part in ("shared", "cuda"):
            ctypes.CDLL(str(Path(runtime.__file__).parent / "capi" / pattern.format(part)), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return ""


def _describe() -> dict[str, Any]:
    modules = {name: _import(name) for name in ("numpy", "cv2", "onnxruntime", "insightface")}
    runtime = modules["onnxruntime"][0]
    return {
        "executable": sys.executable,
        "version": list(sys.version_info[:3]),
        "distributions": _distributions(),
        "broken": {name: error for name, (_, error) in modules.items() if error},
        "providers": runtime.get_available_providers() if runtime else [],
        "torch_cuda": _torch_cuda(),
        "cuda_fault": _cuda_fault(runtime) if runtime else "",
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_describe()))
