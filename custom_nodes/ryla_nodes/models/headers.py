"""Read what a weight file says about itself, loading no weight and running nothing: safetensors, pickles, ONNX."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RylaError

Shape = tuple[int, ...]

MADE_UP = "ryla_small_models"
"""The metadata key of files whose weights are made up for tests: no node takes one unless it is named."""

_LENGTH_BYTES = 8
_SCALARS = {"F16": ("<e", 2), "BF16": ("<f", 2), "F32": ("<f", 4), "F64": ("<d", 8)}
_MAX_HEADER = 100_000_000  # The safetensors format's own limit.
_LFS = "a Git LFS pointer, not the file itself"
_PAGE = "a web page (a login or licence page was saved instead of the file)"
_PULL = "git lfs pull, where it was cloned; else ryla models check --repair"
_GGUF_HINT = "Load it with the nodes of ComfyUI-GGUF, or take a .safetensors file: ryla models list"
_COMPANION_HINT = "Delete it: macOS makes such files beside others on foreign disks, and nothing is in them."
_NOT_WEIGHTS = (  # What a file begins with, what it is, and what to do where the registry's hint cannot help.
    (b"version https://git-lfs", _LFS, _PULL),
    (b"<!DOCTYPE", _PAGE, ""),
    (b"<html", _PAGE, ""),
    (b"<?xml", "an XML page of a server", ""),
    (b"PK\x03\x04", "a zip archive or a pickled PyTorch file", ""),
    (b"\x80\x02", "a pickled PyTorch file", ""),
    (b"GGUF", "a GGUF file", _GGUF_HINT),
    (b"\x00\x05\x16\x07", "the companion that macOS makes of a file (._NAME), not the file itself", _COMPANION_HINT),
)
_TEXT_BYTES = 400
_SHOWN_TEXT = 160


@dataclass(frozen=True)
class Header:
    """Names, dtypes and shapes of a file's tensors, and its metadata.

    ``tensors`` maps a key to ``(dtype, shape)``, dtype in safetensors' spelling (``"BF16"``, ``"F8_E4M3"`` ...);
    ``starts`` maps it to the place of its first byte in the file.
    """

    path: Path
    tensors: Mapping[str, tuple[str, Shape]]
    metadata: Mapping[str, str]
    starts: Mapping[str, int] = field(default_factory=dict)

    def shape(self, key: str) -> Shape | None:
        """The shape of ``key``, or None when the file has no such tensor."""
        entry = self.tensors.get(key)
        return entry[1] if entry else None


def read_header(path: Path) -> Header:
    """Read the header of a ``.safetensors`` file and check that all of its tensors are there.

    Raises:
        RylaError: ``empty_file``, ``truncated_file``, ``not_safetensors``, or ``unreadable_file``.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            return _parse(path, size, file)
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error


def _parse(path: Path, size: int, file: BinaryIO) -> Header:
    if size == 0:
        raise RylaError("empty_file", f"{path} is empty (0 bytes).", path=path)
    start = file.read(_LENGTH_BYTES)
    follows = file.read(_TEXT_BYTES)
    # The length of a real header may begin with another format's magic: 640 is 80 02, a pickle's.
    if not follows.startswith(b"{") or start.startswith(b"{"):
        _refuse_other_formats(path, start + follows)
    file.seek(_LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < _LENGTH_BYTES or not 2 <= length <= _MAX_HEADER:
        raise _not_safetensors(path, "its first eight bytes are no header length")
    raw = file.read(length)
    if not raw.startswith(b"{"):
        raise _not_safetensors(path, "its header is not a JSON object")
    if len(raw) < length:
        raise _truncated(path, size, _LENGTH_BYTES + length, at_least=True)
    return _header(path, size, _LENGTH_BYTES + length, _json_object(path, raw))


def _json_object(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(raw)
    except ValueError as error:
        raise _not_safetensors(path, "its header is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise _not_safetensors(path, "its header is not a JSON object")
    return parsed


def _header(path: Path, size: int, data_start: int, entries: dict[str, Any]) -> Header:
    metadata = entries.pop("__metadata__", None) or {}
    tensors: dict[str, tuple[str, Shape]] = {}
    starts: dict[str, int] = {}
    end = 0
    try:
        for key, entry in entries.items():
            tensors[key] = (str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            starts[key] = data_start + int(entry["data_offsets"][0])
            end = max(end, int(entry["data_offsets"][1]))
        meta = {str(key): str(value) for key, value in metadata.items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _not_safetensors(path, "its header lacks dtype, shape or data_offsets") from error
    if size < data_start + end:
        raise _truncated(path, size, data_start + end)
    if size > data_start + end:
        raise _not_safetensors(path, f"{size - data_start - end} bytes follow its last tensor")
    return Header(path, tensors, meta, starts)


def read_scalars(header: Header, names: Iterable[str]) -> dict[str, float]:
    """The values of those tensors of one floating-point element, such as a LoRA's alphas.

    Raises:
        RylaError: ``unreadable_file``.
    """
    found: dict[str, float] = {}
    try:
        with header.path.open("rb") as file:
            for name in names:
                dtype, shape = header.tensors[name]
                if dtype in _SCALARS and math.prod(shape) == 1:
                    file.seek(header.starts[name])
                    found[name] = _scalar(dtype, file)
    except (OSError, struct.error) as error:
        raise RylaError("unreadable_file", f"{header.path} cannot be read: {error}.", path=header.path) from error
    return found


def _scalar(dtype: str, file: BinaryIO) -> float:
    form, size = _SCALARS[dtype]
    raw = file.read(size)
    # A bfloat16 is the upper half of a float32.
    return float(struct.unpack(form, b"\0\0" + raw if dtype == "BF16" else raw)[0])


def other_format(start: bytes) -> tuple[str, str]:
    """What a file is by its first bytes, and what to do; ("", "") when these tell nothing.

    A server's answer that was saved under a model's name is text: what it says is shown.
    """
    for magic, what, hint in _NOT_WEIGHTS:
        if start.lstrip().lower().startswith(magic.lower()):
            return what, hint
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        text = start[: error.start].decode() if len(start) - error.start < 4 else ""
    if len(text.strip()) < 4 or not all(char.isprintable() or char.isspace() for char in text):
        return "", ""
    shown = " ".join(text.split())
    return f"text, not weights: {shown[:_SHOWN_TEXT]!r}{' ...' if len(shown) > _SHOWN_TEXT else ''}", ""


def _refuse_other_formats(path: Path, start: bytes) -> None:
    what, hint = other_format(start)
    if what:
        raise _not_safetensors(path, f"it is {what}", hint)


def _not_safetensors(path: Path, why: str, hint: str = "") -> RylaError:
    return RylaError("not_safetensors", f"{path} is not a safetensors file: {why}.", hint=hint, path=path)


def _truncated(path: Path, size: int, expected: int, *, at_least: bool = False) -> RylaError:
    wanted = f"at least {expected:,}" if at_least else f"{expected:,}"
    return RylaError(
        "truncated_file",
        f"{path} is truncated: it has {size:,} bytes, its header needs {wanted}.",
        path=path,
        size=size,
        expected=expected,
    )


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
