"""CUDA's headers and the driver's library, for a C++ compiler on a machine without CUDA's toolkit.

PyTorch's own packages and Triton have them: what is compiled ahead for a GPU is C++ that starts its kernels.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

_TOOLKIT = Path("/usr/local/cuda")
_HEADER = "cuda_runtime_api.h"


def prepare(folder: Path) -> None:
    """Name them in the environment; ``folder`` gets a link to the driver's library.

    Raises:
        FileNotFoundError: the headers are nowhere.
    """
    from triton.backends.nvidia import driver

    given = any(os.environ.get(key) for key in ("CUDA_HOME", "CUDA_PATH"))
    if not (given or shutil.which("nvcc") or _TOOLKIT.exists()):
        packages = Path(torch.__file__).parents[1]
        headers = [*sorted(packages.glob("nvidia/*/include")), packages / "triton/backends/nvidia/include"]
        home = next((each.parent for each in headers if (each / _HEADER).is_file()), None)
        if home is None:
            raise FileNotFoundError(f"no {_HEADER}: set CUDA_HOME, or pip install nvidia-cuda-runtime nvidia-cuda-cccl")
        os.environ["CUDA_HOME"] = str(home)
        _add("CPATH", *headers)
    for place in driver.libcuda_dirs():
        library = Path(place, "libcuda.so.1")
        if library.exists():
            (folder / "libcuda.so").symlink_to(library)
            _add("LIBRARY_PATH", folder)
            return


def _add(key: str, *folders: Path) -> None:
    known = [os.environ[key]] if os.environ.get(key) else []
    os.environ[key] = os.pathsep.join([*known, *map(str, filter(Path.is_dir, folders))])
