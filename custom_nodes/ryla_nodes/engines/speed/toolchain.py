"""What C++ that is compiled ahead needs: a compiler that suits PyTorch's libraries, CUDA's headers, the driver.

On a machine without CUDA's toolkit PyTorch's own packages and Triton have the last two: for a GPU it is C++ that starts
kernels.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

_COMPILERS = ("g++", "c++", "clang++")
_RUNTIMES = (b"libstdc++.so", b"libc++.so")
_SOURCE = "#include <locale>\nbool speaks() { return std::locale().name().empty(); }\n"
_TOOLKIT = Path("/usr/local/cuda")
_HEADER = "cuda_runtime_api.h"


def choose_compiler(folder: Path) -> None:
    """Have PyTorch use a C++ compiler whose libraries take C++'s own library from where PyTorch's take it.

    One that puts a copy of it into each of them makes code that ends the process, in the first regular expression or
    locale that it meets. ``CXX`` is asked first; what is tried is left in ``folder``.

    Raises:
        FileNotFoundError: there is none.
    """
    if sys.platform == "win32":
        return
    import torch._inductor.config as config

    named = [os.environ["CXX"]] if os.environ.get("CXX") else []
    found = {each: path for each in (*named, *_COMPILERS) if (path := shutil.which(each))}
    for path in dict.fromkeys(found.values()):
        if _shares_runtime(path, folder):
            config.cpp.cxx = (None, path)
            return
    tried = ", ".join(found.values()) or "none is installed"
    raise FileNotFoundError(f"no C++ compiler that links C++'s library as a shared one ({tried}): set CXX to one")


def _shares_runtime(compiler: str, folder: Path) -> bool:
    source, made = folder / "runtime.cpp", folder / "runtime.so"
    source.write_text(_SOURCE, encoding="utf-8")
    command = [compiler, "-shared", "-fPIC", str(source), "-o", str(made)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        return False
    content = made.read_bytes()
    return any(name in content for name in _RUNTIMES)


def prepare_for_gpu(folder: Path) -> None:
    """Name headers and driver in the environment; ``folder`` gets a link to the driver's library.

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
