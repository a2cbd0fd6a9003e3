"""Adapters of InstantID that are wrong on purpose: what a part of it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ryla_nodes.files import replacing
from ryla_nodes.identity.attention import LAYERS, adapter_name
from safetensors.torch import load_file, save_file
from torch import Tensor

_GROUP = "ip_adapter."


def write(adapter: Path, kind: str, folder: Path) -> Path:
    """``adapter`` in ``folder``: ``without-middle``, that block's ten layers, or in the ``wrong-order``."""
    path = folder / f"{kind}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(adapter)
    with replacing(path) as part:
        save_file(_without_middle(weights) if kind == "without-middle" else _wrong_order(weights), part)
    return path


def _without_middle(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of zero in the middle block's ten layers: they add nothing."""
    middle = [position for position, layer in enumerate(LAYERS) if layer.block == "middle"]
    zero = {_name(position, "v"): weights[_name(position, "v")] for position in middle}
    return {**weights, **{name: value.float().zero_().to(value.dtype) for name, value in zero.items()}}


def _wrong_order(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file as if its numbers were sorted as text (1, 101, 103, ..., 11), among layers of one width."""
    wrong = dict(weights)
    for width in {weights[_name(position, "k")].shape[0] for position in range(len(LAYERS))}:
        places = [p for p in range(len(LAYERS)) if weights[_name(p, "k")].shape[0] == width]
        taken = sorted(places, key=lambda position: adapter_name(position, "k"))
        for place, source in zip(places, taken, strict=True):
            wrong |= {_name(place, part): weights[_name(source, part)].clone() for part in "kv"}
    return wrong


def _name(position: int, part: str) -> str:
    return _GROUP + adapter_name(position, part)
