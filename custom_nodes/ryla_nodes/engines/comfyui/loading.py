"""Weights read straight to the card, where core's loaders read them into the CPU's memory and copy them twice.

Core's own loaders run, and are given what was read in place of what they would read. The models that they make take
these tensors as they are, and are then loaded in ComfyUI's sense, so that it counts them and can unload them. Where the
card lacks room for all of them at once, and wherever ComfyUI places weights in another way, core reads by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch.overrides import TorchFunctionMode

from ...files import SAFETENSORS_SUFFIXES
from ...models.headers import read_header
from ...models.kept import Kept
from ..loading import layout, unread
from ..loading.reader import Reader, Reading
from ..loading.unread import Unread, UnreadWeight
from ..speed.report import WRAPPER

# What a model takes beside its weights while it is loaded, as ComfyUI reckons it.
_MARGIN = 1.1
_UNREAD = "ryla_unread"


def card_for(*paths: Path) -> torch.device | None:
    """The device to read all of ``paths`` to, with room made there; None when core shall read them.

    Raises:
        RylaError: what ``models.headers.read_header`` raises.
    """
    device = management.get_torch_device()
    if not (_places_whole_models(device) and all(map(_is_readable, paths))):
        return None
    needed = _MARGIN * sum(path.stat().st_size for path in paths) + management.minimum_inference_memory()
    if needed > management.get_total_memory(device):
        return None
    management.free_memory(needed, device)
    return device if management.get_free_memory(device) > needed else None


def _places_whole_models(device: torch.device) -> bool:
    """Whether ComfyUI puts models and text encoders onto ``device`` as they are, and leaves them there."""
    whole = management.vram_state in (management.VRAMState.NORMAL_VRAM, management.VRAMState.HIGH_VRAM)
    # Later ComfyUIs have a patcher that pages weights in by itself.
    plain = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher) is ModelPatcher
    alone = management.text_encoder_device() == device and not management.DISABLE_SMART_MEMORY
    return bool(management.is_device_cuda(device)) and whole and plain and alone


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in SAFETENSORS_SUFFIXES and layout.readable(read_header(path))


@dataclass(frozen=True)
class _Arriving:
    """A file's tensors: those that are on their way, and those that are read when somebody needs them."""

    reading: Reading
    later: Mapping[str, UnreadWeight]


class Loads:
    """Files on their way to a card, or none, and the models that core's loaders make of them."""

    def __init__(self, device: torch.device | None, readings: Mapping[str, _Arriving]) -> None:
        self._device = device
        self._readings = readings

    @property
    def text_options(self) -> dict[str, Any]:
        """``model_options`` for text encoders: no memory is taken on the card for weights that are there already."""
        return {"initial_device": torch.device("cpu")} if self._readings else {}

    def call(self, loader: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What one of core's loaders gives."""
        with _served(self._readings) as taken, _Adoption(taken):
            return loader(*arguments, **options)

    def place(self, *patchers: Any) -> None:
        """Have ComfyUI count models as loaded: what is not on the card yet is moved there."""
        for patcher in patchers:
            if any(map(unread.of, patcher.model.parameters())):
                patcher.add_callback_with_key(CallbacksMP.ON_PRE_RUN, _UNREAD, _read_before)
            if self._readings and patcher.load_device == self._device:
                patcher.patch_model(self._device)
                management.load_models_gpu([patcher])


def _read_before(patcher: Any) -> None:
    """Have what a sampling needs read before it begins; ``speed`` fast sees to that itself."""
    if all(wrapper.mode != "fast" for wrapper in patcher.get_wrappers(WrappersMP.APPLY_MODEL, WRAPPER)):
        unread.read_all(patcher.model)


@contextmanager
def reading(device: torch.device | None, *paths: Path, kept: Kept | None = None) -> Iterator[Loads]:
    """Read ``paths`` to ``device``, or leave it to core when that is None; raises as ``Reader.start``.

    Args:
        kept: what is kept of the first of them in 8 bits; of those weights the reading is put off.
    """
    reader = None if device is None else Reader(device)
    try:
        yield Loads(device, {} if reader is None else _started(reader, device, paths, kept))
    finally:
        if reader is not None:
            reader.close()


def _started(
    reader: Reader, device: torch.device | None, paths: Sequence[Path], kept: Kept | None
) -> dict[str, _Arriving]:
    """The files under way; none where another program has taken the card's memory meanwhile."""
    found = {}
    try:
        for path in paths:
            later: Mapping[str, UnreadWeight] = {}
            names = None
            if kept is not None and device is not None and path == paths[0]:
                header = read_header(path)
                later = Unread(header, kept, management.throw_exception_if_processing_interrupted).weights(device)
                names = header.tensors.keys() - later.keys()
            found[str(path)] = _Arriving(reader.start(path, names), later)
    except management.OOM_EXCEPTION:
        reader.close()
        return {}
    return found


@contextmanager
def _served(readings: Mapping[str, _Arriving]) -> Iterator[dict[int, torch.Tensor]]:
    """Within the block ComfyUI's ``load_torch_file`` gives what was read; by ``id`` what it gave."""
    taken: dict[int, torch.Tensor] = {}
    files: dict[str, dict[str, torch.Tensor]] = {}
    core = comfy.utils.load_torch_file

    def load_torch_file(path: str, *arguments: Any, return_metadata: bool = False, **options: Any) -> Any:
        if path not in readings:
            return core(path, *arguments, return_metadata=return_metadata, **options)
        if path not in files:
            arriving = readings[path]
            found = arriving.reading.tensors(management.throw_exception_if_processing_interrupted)
            files[path] = {**found, **arriving.later}
            taken.update({id(tensor): tensor for tensor in files[path].values()})
        tensors = dict(files[path])  # Core takes them out of it one by one.
        return (tensors, dict(read_header(Path(path)).metadata) or None) if return_metadata else tensors

    comfy.utils.load_torch_file = load_torch_file
    try:
        yield taken
    finally:
        comfy.utils.load_torch_file = core


class _Adoption(TorchFunctionMode):
    """Within the block a parameter that would copy one of ``tensors`` becomes that tensor, when it is of its kind."""

    def __init__(self, tensors: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._tensors = tensors

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.copy_ and len(arguments) > 1 and self._fits(*arguments[:2]):
            target, source = arguments[:2]
            if isinstance(source, UnreadWeight) and source.unread is not None:
                source.unread.adopted(target, source)
            else:
                target.data = source
            return target
        return function(*arguments, **(options or {}))

    def _fits(self, target: Any, source: Any) -> bool:
        same_kind = type(target) in (torch.Tensor, torch.nn.Parameter) and target.device.type != "meta"
        return same_kind and id(source) in self._tensors and _kind(target) == _kind(source)


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.stride()
