"""Where the tensors of a safetensors file lie, checked, and which parts of it to read in one go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from ...errors import RylaError
from ...models.headers import Header

_NAMES = {
    "BOOL": "bool",
    "C64": "complex64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
# Those that this PyTorch has.
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, dtype) for name, dtype in _NAMES.items() if hasattr(torch, dtype)
}
"""safetensors' name of a dtype -> PyTorch's."""


@dataclass(frozen=True)
class Span:
    """``length`` bytes of the tensor ``name`` from its byte ``at`` on; they are at ``start`` in the file."""

    name: str
    start: int
    at: int
    length: int


def readable(header: Header) -> bool:
    """Whether every tensor's dtype is one that whole bytes hold and PyTorch knows."""
    return all(dtype in DTYPES for dtype, _ in header.tensors.values())


def size(header: Header, name: str) -> int:
    """Bytes of a tensor."""
    dtype, shape = header.tensors[name]
    return math.prod(shape) * DTYPES[dtype].itemsize


def check(header: Header) -> None:
    """Check that the tensors fill the file without a gap or an overlap, as the format asks.

    Raises:
        RylaError: ``not_safetensors`` naming the first one that does not; ``unsupported_weights`` for other dtypes.
    """
    for name, (dtype, _) in header.tensors.items():
        if dtype not in DTYPES:
            raise RylaError("unsupported_weights", f"{header.path}: {name} is {dtype}, which cannot be read here.")
    places = sorted((start, start + size(header, name), name) for name, start in header.starts.items())
    end = places[0][0] if places else 0
    for start, stop, name in places:
        if start != end:
            line = f"{header.path} is not a safetensors file: {name} begins at byte {start:,}, not {end:,}."
            raise RylaError("not_safetensors", line, path=header.path)
        end = stop
    length = header.path.stat().st_size
    if places and end != length:
        line = f"{header.path} is not a safetensors file: its tensors end at byte {end:,} of {length:,}."
        raise RylaError("not_safetensors", line, path=header.path)


def chunks(header: Header, names: Iterable[str], length: int) -> Iterator[list[Span]]:
    """Parts of the file of at most ``length`` bytes: spans that follow each other in it without a gap."""
    chunk: list[Span] = []
    for span in _spans(header, names, length):
        together = span.start + span.length - chunk[0].start if chunk else 0
        if chunk and (together > length or chunk[-1].start + chunk[-1].length != span.start):
            yield chunk
            chunk = []
        chunk.append(span)
    if chunk:
        yield chunk


def _spans(header: Header, names: Iterable[str], length: int) -> Iterator[Span]:
    for name in sorted(names, key=lambda name: header.starts[name]):
        whole = size(header, name)
        for at in range(0, whole, length):
            yield Span(name, header.starts[name] + at, at, min(length, whole - at))
