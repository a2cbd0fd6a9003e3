"""Read the tensors of a single-file model, 8-bit floats with their scales included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import RylaError
from ....models.headers import Header, read_header

if TYPE_CHECKING:
    import torch

# A scaled 8-bit weight is `weight * scale`; older files call the scale `X.scale_weight`, newer ones `X.weight_scale`.
_SCALES = (".scale_weight", ".weight_scale")
# Facts about the quantisation of other tensors: not weights of the network.
_SIDECARS = (*_SCALES, ".scale_input", ".input_scale", ".comfy_quant")
_FORMATS = ("float8_e4m3fn", "float8_e5m2")
_FP8 = ("F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class WeightFile:
    """The tensors of ``path`` whose names start with ``prefix``, by their names without it."""

    path: Path
    header: Header
    prefix: str = ""

    @classmethod
    def open(cls, path: Path, prefix: str = "") -> WeightFile:
        """Read the header of ``path``. Raises what ``models.headers.read_header`` raises."""
        return cls(path, read_header(path), prefix)

    def part(self, prefix: str) -> WeightFile:
        """The tensors below ``prefix`` of the same file."""
        return WeightFile(self.path, self.header, self.prefix + prefix)

    def names(self) -> list[str]:
        """The weights' names, sorted."""
        found = (key[len(self.prefix) :] for key in self.header.tensors if key.startswith(self.prefix))
        return sorted(name for name in found if not _is_sidecar(name))

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.header.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of ``name``. Raises ``incomplete_weights`` when the file lacks it."""
        shape = self.header.shape(self.prefix + name)
        if shape is None:
            raise RylaError("incomplete_weights", f"{self.path} has no {self.prefix}{name}.", path=self.path)
        return shape

    def count(self, pattern: str) -> int:
        """How many consecutive numbers n, from 0, have a tensor that starts with ``pattern.format(n)``."""
        names = self.names()
        number = 0
        while any(name.startswith(pattern.format(number)) for name in names):
            number += 1
        return number

    def fp8(self) -> str | None:
        """The 8-bit dtype of the file's unscaled weights in safetensors' spelling, or None when they are wider."""
        dtypes = {self.header.tensors[self.prefix + name][0] for name in self.names()}
        scaled = any(name.endswith(_SCALES) for name in self.header.tensors if name.startswith(self.prefix))
        return next((dtype for dtype in _FP8 if dtype in dtypes), None) if not scaled else None

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each weight by name, on the CPU: scaled 8-bit ones multiplied out to float32, the others as they are.

        Raises:
            RylaError: ``unsupported_weights`` for a quantisation other than (scaled) 8-bit floats.
        """
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            for name in self.names():
                key = self.prefix + name
                tensor = file.get_tensor(key)
                module = key.rpartition(".")[0]
                scale = next((module + suffix for suffix in _SCALES if module + suffix in self.header.tensors), None)
                if f"{module}.comfy_quant" in self.header.tensors:
                    self._require_fp8(key, bytes(file.get_tensor(f"{module}.comfy_quant").tolist()))
                if scale is not None and tensor.dtype.itemsize == 1:
                    tensor = tensor.float() * file.get_tensor(scale).float()
                yield name, tensor

    def _require_fp8(self, key: str, description: bytes) -> None:
        kind = json.loads(description).get("format")
        if kind not in _FORMATS:
            raise RylaError(
                "unsupported_weights",
                f"{self.path}: {key} is quantised as {kind!r}; this engine reads {' and '.join(_FORMATS)}.",
                path=self.path,
            )


def _is_sidecar(name: str) -> bool:
    return name.endswith(_SIDECARS) or name == "scaled_fp8"
