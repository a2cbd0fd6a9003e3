"""Safetensors files of noise, written as fast as the disk takes them and with little memory."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

Shapes = Mapping[str, tuple[int, ...]]

# A block of noise is laid end to end; its length is prime, so that no two rows of a matrix are alike.
_BLOCK = 16_777_213
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def save(path: Path, shapes: Shapes, dtype: torch.dtype) -> None:
    """Write tensors of ``shapes``: matrices of deviation 0.7 / sqrt(inputs), norms one, biases zero."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(_header(shapes, dtype))
        for name, shape in shapes.items():
            for piece in _pieces(name, shape, dtype):
                file.write(piece.view(torch.uint8).numpy())
    print(f"{path.name}: {len(shapes)} tensors, {path.stat().st_size / 1e9:.2f} GB", flush=True)


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    entries: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _pieces(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    size = math.prod(shape)
    if len(shape) <= 1 and name.endswith(("scale", "weight")):
        yield torch.ones(size, dtype=dtype)
    elif name.endswith("bias"):
        yield torch.zeros(size, dtype=dtype)
    else:
        block, start = _noise(math.prod(shape[1:]), dtype), zlib.crc32(name.encode()) % _BLOCK
        while size:
            piece = block[start : start + size]
            yield piece
            size, start = size - len(piece), 0


@lru_cache(maxsize=40)
def _noise(inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return (_block() * (0.7 / max(1, inputs) ** 0.5)).to(dtype)


@lru_cache(maxsize=1)
def _block() -> torch.Tensor:
    return torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0))
