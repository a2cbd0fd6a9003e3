"""Look into any file of the catalogue: is it whole, and what is it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

from ..errors import RylaError
from .headers import read_header
from .identify import FileKind, identify
from .pickles import read_pickle_header

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
# Wire types of protobuf, and ONNX's field number of the graph in a ModelProto.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ONNX_GRAPH = 7


def examine(path: Path, suffix: str = "") -> FileKind:
    """What ``path`` holds by its header; UNKNOWN for formats that carry no model family (ONNX, JSON, text).

    ``suffix`` says the format of a file that does not have its own name yet.

    Raises:
        RylaError: ``empty_file``, ``truncated_file``, ``not_safetensors``, ``unsafe_pickle``, ``unreadable_file``.
    """
    suffix = suffix or path.suffix
    if suffix in (".safetensors", ".sft"):
        return identify(read_header(path))
    if suffix in _PICKLES:
        return identify(read_pickle_header(path))
    try:
        _check_plain(path, suffix)
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    return FileKind.UNKNOWN


def _check_plain(path: Path, suffix: str) -> None:
    size = path.stat().st_size
    if size == 0:
        raise RylaError("empty_file", f"{path} is empty (0 bytes).", path=path)
    if suffix == ".onnx":
        with path.open("rb") as file:
            _check_onnx(path, size, file)
    elif suffix == ".json":
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise RylaError("unreadable_file", f"{path} is not valid JSON: {error}.", path=path) from error


def _check_onnx(path: Path, size: int, file: BinaryIO) -> None:
    """Walk the top-level protobuf fields of a ModelProto: they have to fill the file, and one is the graph."""
    graph = False
    while file.tell() < size:
        tag = _varint(path, file)
        if tag & 7 == _VARINT:
            _varint(path, file)
        elif tag & 7 in (_FIXED64, _BYTES, _FIXED32):
            length = {_FIXED64: 8, _FIXED32: 4}.get(tag & 7) or (_varint(path, file) if tag & 7 == _BYTES else 0)
            _skip(path, size, file, length)
        else:
            raise RylaError("unreadable_file", f"{path} is not an ONNX file.", path=path)
        graph = graph or tag >> 3 == _ONNX_GRAPH
    if not graph:
        raise RylaError("unreadable_file", f"{path} is not an ONNX file: it has no graph.", path=path)


def _skip(path: Path, size: int, file: BinaryIO, length: int) -> None:
    end = file.tell() + length
    if end > size:
        raise RylaError(
            "truncated_file",
            f"{path} is truncated: it has {size:,} bytes, its fields need at least {end:,}.",
            path=path,
            size=size,
            expected=end,
        )
    file.seek(end)


def _varint(path: Path, file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise RylaError("truncated_file", f"{path} is truncated: it ends inside a field.", path=path)
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
    raise RylaError("unreadable_file", f"{path} is not an ONNX file.", path=path)
