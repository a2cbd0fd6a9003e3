"""Loading a LoRA's tensors, and refusing those that would turn the picture black."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RylaError

if TYPE_CHECKING:
    import torch

_CHUNK = 1 << 22  # Elements converted at a time: 16 MB of float32, whatever the tensor's size.


def load(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a LoRA file, on the CPU, in the file's dtypes, checked to be finite.

    The last few files are kept until they change; nobody may write to the tensors.

    Raises:
        RylaError: ``lora_vanished`` when the file was deleted since it was found, ``unreadable_file``,
            ``not_safetensors``, ``lora_not_finite``.
    """
    try:
        status = path.stat()
        return dict(_load(path, status.st_mtime_ns, status.st_size))
    except FileNotFoundError as error:
        raise RylaError("lora_vanished", f"{path} was deleted after it had been found.", path=path) from error
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error


@lru_cache(maxsize=4)
def _load(path: Path, mtime_ns: int, size: int) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as load_bytes
    from safetensors.torch import load_file

    try:
        # safetensors opens no file whose name is not UTF-8.
        tensors = load_file(path) if str(path).isprintable() else load_bytes(path.read_bytes())
    except SafetensorError as error:
        raise RylaError("not_safetensors", f"{path} is not a safetensors file: {error}.", path=path) from error
    require_finite(tensors, path)
    return tensors


def require_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check that every weight is finite.

    Raises:
        RylaError: ``lora_not_finite`` with the first key that holds NaN or infinity.
    """
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not _finite(tensor.reshape(-1)):
            raise RylaError("lora_not_finite", f"{path} holds NaN or infinite weights in {key}.", path=path, key=key)


def _finite(flat: torch.Tensor) -> bool:
    if flat.element_size() > 1:
        return _bounded(flat)
    # The 8-bit float types have no minimum of their own.
    return all(_bounded(flat[start : start + _CHUNK].float()) for start in range(0, flat.numel(), _CHUNK))


def _bounded(flat: torch.Tensor) -> bool:
    # NaN wins in both; some twenty times faster than isfinite().all().
    low, high = flat.aminmax()
    return bool(low.isfinite()) and bool(high.isfinite())
