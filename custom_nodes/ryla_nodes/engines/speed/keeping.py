"""8-bit weights kept on the volume: made from a model's file in the background, and used in its place later.

They are made from the file and not from the model, so that LoRAs, merges and other packs' changes cannot get into them.
"""

from __future__ import annotations

import json
import logging
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ...errors import RylaError
from ...files import replacing
from ...models import kept
from ...models.headers import Header, read_header
from ...workflows import prefetch
from ..loading import unread
from ..loading.reader import Reader, Reading
from . import fp8, layers
from .fp8 import Fp8Linear
from .layers import Place

_THREADS = 2
_ROWS = 2048  # Quantised at a time: what that takes beside a running model stays small.
_sources: WeakKeyDictionary[nn.Module, Path] = WeakKeyDictionary()
_begun: set[Path] = set()


def maker(device: torch.device) -> str:
    """Who makes 8-bit weights here: others might round in another way."""
    return f"{torch.__version__.split('+')[0]} {device.type}"


def find(volume: Path | None, source: Path, device: torch.device) -> kept.Kept | None:
    """What is kept of a model file, as this machine would make it."""
    return kept.find(volume, source, maker(device))


def came_from(network: nn.Module, source: Path) -> None:
    """Note that the weights of ``network`` are those of ``source``."""
    _sources[network] = source


class Eighths:
    """Layers in 8 bits: read from what is kept where their weights are not read yet, else quantised.

    What is kept is read in the background; until ``finish`` such layers have memory and no content.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = [place for place in places if unread.of(place.linear.weight)]
        sources = {unread.of(place.linear.weight) for place in self._places}
        self.source = sources.pop() if len(sources) == 1 else None
        waiting = {id(place) for place in self._places} if self.source else set()
        self.layers = [
            Fp8Linear(place.linear, place.widths, gelu=place.gelu, empty=id(place) in waiting) for place in places
        ]
        self._later = [(place, layer) for place, layer in zip(places, self.layers, strict=True) if id(place) in waiting]
        self._reader: Reader | None = None
        self._reading: Reading | None = None
        if self.source is not None:
            self._start(self.source.kept.path)

    @property
    def reading(self) -> bool:
        """Whether there is something to finish."""
        return bool(self._later)

    def _start(self, path: Path) -> None:
        memory: dict[str, torch.Tensor] = {}
        for place, layer in self._later:
            for index in range(len(layer.widths)):
                weight, scale = kept.names(place.weight, index)
                memory |= {weight: layer.get_buffer(f"weight{index}"), scale: layer.get_buffer(f"scale{index}")}
        prefetch.eighths_are_used()
        self._reader = Reader(next(iter(memory.values())).device)
        try:
            self._reading = self._reader.start(path, into=memory)
        except (RylaError, KeyError) as error:
            self._give_up(error)

    def finish(self) -> None:
        """Wait for what is kept; where it cannot be read the weights themselves are, and quantised.

        Raises:
            RylaError: a model file cannot be read.
        """
        try:
            if self._reading is not None and self.source is not None:
                self._reading.tensors()
                self.source.kept.use()
                self._later.clear()
        except RylaError as error:
            self._give_up(error)
        finally:
            self.close()
        for place, layer in self._later:
            layer.take(place.linear)
        self._later.clear()

    def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.close()
        self._reader = self._reading = None

    def _give_up(self, error: Exception) -> None:
        logging.warning("ryla: kept 8-bit weights cannot be used: %s", error)
        self._reading = None


def made(places: Sequence[Place]) -> list[Fp8Linear]:
    """The layers of ``places`` in 8 bits, ready; raises as ``Eighths.finish``."""
    found = Eighths(places)
    found.finish()
    return found.layers


def begin(network: nn.Module, volume: Path | None, device: torch.device) -> threading.Thread | None:
    """Keep the 8-bit weights of the file that ``network`` came from, in the background; once for each file."""
    source = _sources.get(network)
    if volume is None or source is None or source in _begun:
        return None
    _begun.add(source)
    thread = threading.Thread(target=_keep, args=(volume, source, device), name="ryla-keep", daemon=True)
    thread.start()
    return thread


def _keep(volume: Path, source: Path, device: torch.device) -> None:
    try:
        note = "" if find(volume, source, device) else make(volume, source, device)
    except (OSError, RylaError, torch.OutOfMemoryError) as error:
        note = str(error)
    if note:
        logging.warning("ryla: 8-bit weights are not kept: %s", note)


def make(volume: Path, source: Path, device: torch.device) -> str:
    """Quantise the matrices of FLUX.1's file ``source`` into a file on the volume; why not, in one line, "" when done.

    Raises:
        OSError, RylaError: ``source`` cannot be read, or the volume takes nothing.
    """
    header = read_header(source)
    weights = layers.of_file(header.tensors)
    if not weights:
        return f"{source} has no matrices in bfloat16 under FLUX.1's names"
    entries, size = _entries(header, weights)
    target = kept.path_of(volume, source)
    reason = kept.hindrance(target, size)
    if reason:
        return reason
    facts = kept.metadata(header, weights, maker(device))
    with replacing(target) as part:
        with part.open("wb") as file:
            _write_header(file, {**entries, "__metadata__": facts})
            _write(file, source, weights, device)
        if kept.metadata(read_header(source), weights, maker(device)) != facts:
            raise RylaError("unreadable_file", f"{source} was changed meanwhile.", path=source)
    logging.info("ryla: 8-bit weights of %s are kept in %s", source.name, target)
    return ""


def _entries(header: Header, weights: dict[str, tuple[int, ...]]) -> tuple[dict[str, Any], int]:
    """The entries of the file's header in the order of its tensors, and the bytes of those."""
    entries: dict[str, Any] = {}
    end = 0
    for name, widths in weights.items():
        rows = header.tensors[name][1][0]
        for index, width in enumerate(widths):
            weight, scale = kept.names(name, index)
            for key, dtype, shape, length in (
                (scale, "F32", [rows, 1], 4 * rows),
                (weight, "F8_E4M3", [rows, width], rows * width),
            ):
                entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
                end += length
    return entries, end


def _write_header(file: BinaryIO, entries: dict[str, Any]) -> None:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


@torch.inference_mode()
def _write(file: BinaryIO, source: Path, weights: dict[str, tuple[int, ...]], device: torch.device) -> None:
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream), Reader(device, _THREADS) as reader:
        for name, widths in weights.items():
            whole = reader.start(source, [name]).tensors()[name]
            for part in torch.split(whole, list(widths), dim=1):
                quantised = [fp8.quantised(rows) for rows in torch.split(part, _ROWS)]
                for pieces in ([scale for _, scale in quantised], [weight for weight, _ in quantised]):
                    for piece in pieces:
                        file.write(piece.cpu().contiguous().view(torch.uint8).numpy().data)
