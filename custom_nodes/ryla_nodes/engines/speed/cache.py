"""Where compiled code is kept between processes: a folder on the volume for each PyTorch, GPU, model shape and mode."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import torch

LIMIT_BYTES = 4 << 30
_FREE_BYTES = 512 << 20
_IN_USE_S = 3600.0
_VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": ".", "TRITON_CACHE_DIR": "triton"}
_ours: dict[str, str] = {}


def name_of(device: torch.device, mode: str, shape: tuple[int, ...]) -> str:
    """The folder's name: what compiled code depends on, in 16 hexadecimal digits."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = (torch.__version__, torch.version.cuda, gpu, mode, *shape)
    return "inductor-" + hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:16]


def use(volume: Path | None, name: str) -> str:
    """Let what is compiled from now on be kept in ``volume``; why it is not, in one line, "" when it is.

    Without a volume, or with a folder that the user chose (``TORCHINDUCTOR_CACHE_DIR``), nothing is changed.
    """
    if volume is None or any(map(_is_chosen, _VARIABLES)):
        return ""
    folder = volume / "cache" / name
    note = _prepare(folder)
    for key, part in _VARIABLES.items():
        if note:
            os.environ.pop(key, None)
        else:
            os.environ[key] = str(folder / part)
    _ours.clear()
    _ours.update({} if note else {key: os.environ[key] for key in _VARIABLES})
    return note


def folder(volume: Path | None, name: str) -> Path | None:
    """The folder that ``use`` is for; None without a volume, with one that the user chose, or when it is not there.

    It may be one that takes nothing: what is there can be used all the same.
    """
    if volume is None or any(map(_is_chosen, _VARIABLES)):
        return None
    found = volume / "cache" / name
    return found if found.is_dir() else None


def _is_chosen(key: str) -> bool:
    """Whether the user set this variable: the compiler writes its default there once anything asks it for its place."""
    value = os.environ.get(key)
    if value is None or value == _ours.get(key):
        return False
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return not Path(value).is_relative_to(default_cache_dir())


@lru_cache(maxsize=64)
def _prepare(folder: Path) -> str:
    try:
        bound(folder.parent, LIMIT_BYTES)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"compiled code is not kept: {error}"
    if free < _FREE_BYTES:
        return f"compiled code is not kept: {folder} has only {free >> 20} MiB left"
    return ""


def bound(parent: Path, limit: int) -> None:
    """Remove the folders in ``parent`` that were not used for longest until the rest is within ``limit`` bytes.

    Those of the last hour stay: another process may be writing there.
    """
    found = sorted(parent.glob("inductor-*"), key=lambda folder: folder.stat().st_mtime)
    sizes = {folder: _size(folder) for folder in found}
    total = sum(sizes.values())
    for folder in found:
        if total > limit and time.time() - folder.stat().st_mtime > _IN_USE_S:
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]


def _size(folder: Path) -> int:
    files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())
