"""Look into the files that are no safetensors, running nothing: PyTorch's pickles (``ip-adapter.bin``), ONNX, JSON."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RylaError
from .headers import Header, Shape, other_format

_MAX_PICKLE = 64 << 20
_START_BYTES = 400
_STORAGE_DTYPES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}

# Wire types of protobuf, and ONNX's field number of the graph in a ModelProto.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ONNX_GRAPH = 7


def read_pickle_header(path: Path) -> Header:
    """The header of a file that ``torch.save`` wrote; nested dictionaries become dotted keys.

    Only tensors, dictionaries and plain values are understood: a file that names any other class is refused and nothing
    in it is executed.

    Raises:
        RylaError: ``empty_file``, ``truncated_file``, ``unsafe_pickle`` or ``unreadable_file``.
    """
    try:
        if path.stat().st_size == 0:
            raise RylaError("empty_file", f"{path} is empty (0 bytes).", path=path)
        with zipfile.ZipFile(path) as archive:
            return Header(path, dict(_tensors(_load(path, archive), "")), {})
    except zipfile.BadZipFile as error:
        raise _bad_zip(path) from error
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error


def _bad_zip(path: Path) -> RylaError:
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if start.startswith(b"PK\x03\x04"):
        return RylaError("truncated_file", f"{path} is truncated: the index at its end is not there.", path=path)
    what, hint = other_format(start)
    why = f": it is {what}" if what else ""
    return RylaError("unsafe_pickle", f"{path} is not a file that torch.save wrote{why}.", hint=hint, path=path)


def _load(path: Path, archive: zipfile.ZipFile) -> Any:
    names = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
    if len(names) != 1 or names[0].file_size > _MAX_PICKLE:
        raise RylaError("unsafe_pickle", f"{path} is not a file that torch.save wrote.", path=path)
    try:
        return _Reader(io.BytesIO(archive.read(names[0]))).load()
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RylaError("unsafe_pickle", f"{path} is refused: {error}.", path=path) from error


class _Tensor(tuple[str, Shape]):
    """``(dtype, shape)`` of a tensor whose data stays in the file."""


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> str:
        return str(pid[1])


def _rebuild_tensor(dtype: str, _offset: int, shape: Any, *_: Any) -> _Tensor:
    return _Tensor((dtype, tuple(int(n) for n in shape)))


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


def _tensors(value: Any, prefix: str) -> Iterator[tuple[str, tuple[str, Shape]]]:
    if isinstance(value, _Tensor):
        yield prefix.removesuffix("."), value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{prefix}{key}.")


def check_plain(path: Path, suffix: str) -> None:
    """Check that a file of a format without tensor names (``.onnx``, ``.json``, text) is whole.

    Raises:
        RylaError: ``empty_file``, ``truncated_file`` or ``unreadable_file``.
    """
    try:
        _check_plain(path, suffix)
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error


def _check_plain(path: Path, suffix: str) -> None:
    size = path.stat().st_size
    if size == 0:
        raise RylaError("empty_file", f"{path} is empty (0 bytes).", path=path)
    if suffix == ".onnx":
        with path.open("rb") as file:
            what, hint = other_format(file.read(_START_BYTES))
            if what:
                raise RylaError("unreadable_file", f"{path} is not an ONNX file: it is {what}.", hint=hint, path=path)
            file.seek(0)
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
