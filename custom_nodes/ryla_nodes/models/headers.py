"""Read what a weight file says about itself, without loading a single weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RylaError

Shape = tuple[int, ...]

MADE_UP = "ryla_small_models"
"""The metadata key of files whose weights are made up for tests: no node takes one unless it is named."""

_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000  # The safetensors format's own limit.
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<!DOCTYPE", "a web page (a login or licence page was saved instead of the file)"),
    (b"<html", "a web page (a login or licence page was saved instead of the file)"),
    (b'{"error"', "an error message of a server"),
    (b"PK\x03\x04", "a zip archive or a pickled PyTorch file"),
    (b"\x80\x02", "a pickled PyTorch file"),
    (b"GGUF", "a GGUF file"),
)


@dataclass(frozen=True)
class Header:
    """Names, dtypes and shapes of a file's tensors, and its metadata.

    ``tensors`` maps a key to ``(dtype, shape)``, dtype in safetensors' spelling (``"BF16"``, ``"F8_E4M3"`` ...).
    """

    path: Path
    tensors: Mapping[str, tuple[str, Shape]]
    metadata: Mapping[str, str]

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
    follows = file.read(24)
    # The length of a real header may begin with another format's magic: 640 is 80 02, a pickle's.
    if not follows.startswith(b"{"):
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
    end = 0
    try:
        for key, entry in entries.items():
            tensors[key] = (str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            end = max(end, int(entry["data_offsets"][1]))
        meta = {str(key): str(value) for key, value in metadata.items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _not_safetensors(path, "its header lacks dtype, shape or data_offsets") from error
    if size < data_start + end:
        raise _truncated(path, size, data_start + end)
    if size > data_start + end:
        raise _not_safetensors(path, f"{size - data_start - end} bytes follow its last tensor")
    return Header(path, tensors, meta)


def _refuse_other_formats(path: Path, start: bytes) -> None:
    for magic, what in _NOT_WEIGHTS:
        if start.lstrip().lower().startswith(magic.lower()):
            raise _not_safetensors(path, f"it is {what}")


def _not_safetensors(path: Path, why: str) -> RylaError:
    return RylaError("not_safetensors", f"{path} is not a safetensors file: {why}.", path=path)


def _truncated(path: Path, size: int, expected: int, *, at_least: bool = False) -> RylaError:
    wanted = f"at least {expected:,}" if at_least else f"{expected:,}"
    return RylaError(
        "truncated_file",
        f"{path} is truncated: it has {size:,} bytes, its header needs {wanted}.",
        path=path,
        size=size,
        expected=expected,
    )
