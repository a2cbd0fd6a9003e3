"""Blocks compiled ahead of time, and kept beside the compiler's cache for the processes that come.

PyTorch's C++ loads such a package by itself: nothing of the compiler is imported, and the first picture of a process
does not wait for it. One package serves all blocks of a kind, whose weights are inputs like any other tensor. Nothing
in it looks at what it is given, so all of that is compared here with what it was made for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from ... import settings
from ...files import sha256
from ..protocol import SpeedMode
from . import cache, flags
from .layout import Layout, layout_of
from .traced import code_of, own_name, place_of

LONGEST = 65536  # Tokens: with more of them places in FLUX.1's tensors do not fit in 32 bits.
_FORMAT = 2
_KINDS = 2
_OLDEST_TORCH = (2, 8)  # The first whose loader takes what is given to it here.
_PLAIN = (torch.Tensor, nn.Parameter)

Facts = Mapping[str, Any]
Function = Callable[..., Any]
State = Sequence[torch.Tensor | None]


def shortest(device: torch.device) -> int:
    """The fewest tokens. On a GPU some versions of ComfyUI attend to less than 43 of them in another way."""
    return 64 if device.type == "cuda" else 4


@dataclass(frozen=True)
class Kept:
    """A folder for packages, the mode they are for, and the modules whose functions the compiler follows."""

    folder: Path
    mode: SpeedMode
    traced: tuple[str, ...]


def kept(volume: Path | None, name: str, mode: SpeedMode, traced: tuple[str, ...]) -> Kept | None:
    """Where packages are for what is compiled in the folder ``name`` of the cache; None when there are to be none."""
    if not settings.load().ahead:
        return None
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    folder = cache.folder(volume, name) if version >= _OLDEST_TORCH else None
    return Kept(folder, mode, traced) if folder else None


@dataclass(frozen=True)
class Call:
    """A function of a block and tensors, as in ``compiler.run``, and where packages for it are."""

    kept: Kept
    function: Function
    block: nn.Module
    tensors: Sequence[torch.Tensor]
    lengths: Sequence[int]

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.tensors[0].device


def facts_of(call: Call) -> dict[str, Any] | None:
    """All that a package for ``call`` depends on, as JSON has it; None when there can be none."""
    layout = layout_of(call.block)
    state = layout.state()
    device = call.device
    given = [*_filled(state), *call.tensors]
    if not (layout.is_plain() and _is_plain_use(device)):
        return None
    if any(type(each) not in _PLAIN or each.device != device for each in given):
        return None
    if not all(
        each.is_contiguous() and (length < 0 or each.shape[length] >= shortest(device)) for each, length in _pairs(call)
    ):
        return None
    return {
        "format": _FORMAT,
        "mode": call.kept.mode,
        **_machine(device),
        "function": place_of(call.function),
        **surroundings(call),
        "weights": [
            [name, str(each.dtype), list(each.shape), list(each.stride())]
            for name, each in zip(layout.names, state, strict=True)
            if each is not None
        ],
        "tensors": [[str(each.dtype), _open_shape(each, length)] for each, length in _pairs(call)],
        "lengths": list(call.lengths),
    }


def _machine(device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"torch": torch.__version__, "device": device.type, "gpu": gpu}


def surroundings(call: Call) -> dict[str, Any]:
    """What is not seen in the tensors of ``call``."""
    return {
        "structure": layout_of(call.block).structure,
        "traced": list(map(own_name, call.kept.traced)),
        "code": code_of(call.kept.traced).digest,
        "flags": flags.facts(),
    }


def path_of(folder: Path, facts: Facts) -> Path:
    """Where the package for ``facts`` is, if there is one; what is known of it is beside it, in a ``.json``."""
    kind = facts["function"].rpartition(":")[2].strip("_")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"{kind}-{digest}.pt2"


def _pairs(call: Call) -> Iterator[tuple[torch.Tensor, int]]:
    return zip(call.tensors, call.lengths, strict=True)


def _filled(state: State) -> list[torch.Tensor]:
    return [each for each in state if each is not None]


def _open_shape(tensor: torch.Tensor, length: int) -> list[int | None]:
    return [None if dimension == length else size for dimension, size in enumerate(tensor.shape)]


def _is_plain_use(device: torch.device) -> bool:
    """Whether nothing is to be recorded or cast on the way: a package does neither."""
    return not (torch.is_grad_enabled() or torch.is_autocast_enabled(device.type))


class Artifact:
    """A package that is loaded, and what may be given to it.

    Args:
        sums: for each tensor with a length, by its number: the tensors whose lengths it is the sum of.
    """

    def __init__(self, path: Path, facts: Facts, sums: Mapping[int, Sequence[int]], device: torch.device) -> None:
        self._structure, self._code, self._device = facts["structure"], facts["code"], device
        self._weights = [(_dtype(name), torch.Size(size), tuple(stride)) for _, name, size, stride in facts["weights"]]
        self._tensors = [(_dtype(name), shape) for name, shape in facts["tensors"]]
        self._lengths, self._sums = facts["lengths"], sums
        self._is_broken = False
        index = -1 if device.type == "cpu" else device.index or 0
        # Without "single-threaded" a call waits until the GPU has done the one before; hence a lock of our own.
        self._loader, self._lock = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, index), Lock()

    def serve(self, call: Call, layout: Layout, state: State) -> Any | None:
        """What the function gives; None when this was made for something else, or does not run."""
        given = _filled(state)
        if self._is_broken or not self.fits(call, layout, given):
            return None
        try:
            return self.run(call, given)
        except RuntimeError as error:  # Whatever goes wrong; the other way says it better.
            self._is_broken = True
            logging.warning("ryla: blocks that were compiled ahead do not run here: %s", error)
            return None

    def run(self, call: Call, state: Sequence[torch.Tensor]) -> Any:
        """What the function gives; what does not fit is not noticed.

        Raises:
            RuntimeError: the package does not run.
        """
        with self._lock:
            made = self._loader.run([*state, *call.tensors])
        return made[0] if len(made) == 1 else tuple(made)

    def fits(self, call: Call, layout: Layout, state: Sequence[torch.Tensor]) -> bool:
        """Whether it was made for such a call; ``state`` is the block's, without what is None."""
        return (
            layout.structure == self._structure
            and layout.is_plain()
            and code_of(call.kept.traced).digest == self._code
            and _is_plain_use(self._device)
            and self._fits_weights(state)
            and self._fits_tensors(call.tensors)
        )

    def _fits_weights(self, state: Sequence[torch.Tensor]) -> bool:
        if len(state) != len(self._weights):
            return False
        device = self._device
        for each, (dtype, shape, stride) in zip(state, self._weights, strict=True):
            if each.dtype is not dtype or each.shape != shape or each.stride() != stride or each.device != device:
                return False
            if type(each) not in _PLAIN:
                return False
        return True

    def _fits_tensors(self, tensors: Sequence[torch.Tensor]) -> bool:
        for number, (each, (dtype, shape), length) in enumerate(
            zip(tensors, self._tensors, self._lengths, strict=True)
        ):
            if each.dtype is not dtype or each.device != self._device or type(each) not in _PLAIN:
                return False
            if _open_shape(each, length) != shape or not each.is_contiguous():
                return False
            if length >= 0 and not self._fits_length(tensors, number):
                return False
        return True

    def _fits_length(self, tensors: Sequence[torch.Tensor], number: int) -> bool:
        parts = [tensors[part].shape[self._lengths[part]] for part in self._sums[number]]
        given = tensors[number].shape[self._lengths[number]]
        return given == sum(parts) and all(shortest(self._device) <= part <= LONGEST for part in parts)


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name.removeprefix("torch."))
    return found


class Artifacts:
    """What a folder has of one function for one device."""

    def __init__(self) -> None:
        self._loaded: list[Artifact] = []
        self._without: WeakSet[Layout] = WeakSet()

    def serve(self, call: Call) -> Any | None:
        """What the function gives, from a package; None when there is none for this call."""
        layout = layout_of(call.block)
        state = layout.state()
        for artifact in self._loaded:
            made = artifact.serve(call, layout, state)
            if made is not None:
                return made
        return None if layout in self._without else self._first(call, layout, state)

    def _first(self, call: Call, layout: Layout, state: State) -> Any | None:
        facts = facts_of(call)
        if facts is None:
            return None
        artifact = opened(path_of(call.kept.folder, facts), call.device)
        made = artifact.serve(call, layout, state) if artifact else None
        if made is None:
            self._without.add(layout)
        elif artifact not in self._loaded:
            assert artifact is not None
            self._loaded.append(artifact)
        return made


@functools.cache
def of(kept: Kept, function: Function, device: torch.device) -> Artifacts:
    """What this process knows of ``kept``."""
    return Artifacts()


@functools.cache
def opened(path: Path, device: torch.device) -> Artifact | None:
    """The package at ``path``, once for a process; None when there is none. A damaged one is logged."""
    about = read(path)
    if about is None:
        return None
    facts = about["facts"]
    if any(facts.get(name) != value for name, value in _machine(device).items()):
        return None
    if sha256(path) != about["sha256"]:
        logging.warning("ryla: %s is damaged, and not used", path)
        return None
    try:
        return Artifact(path, facts, {int(number): parts for number, parts in about["sums"].items()}, device)
    except RuntimeError as error:
        logging.warning("ryla: %s cannot be loaded: %s", path, error)
        return None


def forget() -> None:
    """Look at folders anew, as a process does that starts."""
    of.cache_clear()
    opened.cache_clear()


def is_filled(kept: Kept | None) -> bool:
    """Whether there are packages for both kinds of blocks: those of other versions or models may be among them."""
    return kept is not None and len(_of_mode(kept.folder, kept.mode)) >= _KINDS


def load_ahead(volume: Path | None, mode: SpeedMode, device: torch.device) -> bool:
    """Load what was last used on such a machine in ``mode``; whether that is there for both kinds of blocks."""
    here = torch.empty(0, device=device).device
    folders = volume.glob("cache/inductor-*") if volume and settings.load().ahead else ()
    for folder in sorted(folders, key=lambda each: each.stat().st_mtime, reverse=True):
        if sum(opened(path, here) is not None for path in _of_mode(folder, mode)) >= _KINDS:
            return True
    return False


def _of_mode(folder: Path, mode: SpeedMode) -> list[Path]:
    paths = sorted(each.with_suffix(".pt2") for each in folder.glob("*.json"))
    return [path for path in paths if (about := read(path)) and about["facts"].get("mode") == mode]


def read(path: Path) -> dict[str, Any] | None:
    """What is known of the package at ``path``; None when there is none, or nothing known of it."""
    try:
        about = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(about, dict) and about.keys() >= {"facts", "sha256", "sums"}
    facts = about["facts"] if is_ours and isinstance(about["facts"], dict) else {}
    if not isinstance(facts.get("function"), str) or path_of(path.parent, facts) != path:
        logging.warning("ryla: %s is damaged, and not used", path.with_suffix(".json"))
        return None
    return about if path.is_file() else None
