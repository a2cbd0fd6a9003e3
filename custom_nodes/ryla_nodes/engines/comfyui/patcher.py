"""Another LoRA without the way through the CPU's memory.

ComfyUI's ModelPatcher keeps the original of each patched weight in the CPU's memory. At the next change of patches it
moves the whole model there, restores it and brings it back: 8.7 s for FLUX.1 Dev on an H200. Here the originals stay on
the card while it has room, else in pinned memory, and only what differs is made anew. Each weight is patched by
ComfyUI's own arithmetic from its own original, so it is bit for bit what core's LoraLoader gives.
"""

from __future__ import annotations

import collections
from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher, get_key_weight
from comfy.utils import set_attr_param

# What ModelPatcher keeps of a patched weight.
_Backup = collections.namedtuple("_Backup", ["weight", "inplace_update"])
# Beside what sampling needs, as ComfyUI reckons it: what is taken only for a moment, and what others take meanwhile.
_SPARE_BYTES = 1 << 30


def in_place(model: Any) -> Any:
    """A clone of a MODEL (or of a CLIP's patcher) whose patches, and those of its clones, are changed in place.

    Patchers that place weights in a way of their own (subclasses of ModelPatcher, dynamic ones) come back as they are.
    """
    clone = model.clone()
    if type(clone) is ModelPatcher:
        clone.__class__ = InPlacePatcher
    return clone


class InPlacePatcher(ModelPatcher):  # type: ignore[misc]
    """A ModelPatcher that keeps originals where they can be had back at once."""

    def partially_load(self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False) -> Any:
        """Load as core does; when the model is on the device with other patches, change only those."""
        if force_patch_weights or not self._loaded_with_others(device_to):
            return super().partially_load(device_to, extra_memory, force_patch_weights=force_patch_weights)
        with self.use_ejected(skip_and_inject_on_exit_only=True):
            self.unpatch_hooks()
            self.unpatch_model(self.offload_device, unpatch_weights=False)
            self.patch_model(load_weights=False)
            self._change_patches(device_to)
            self.apply_hooks(self.forced_hooks, force_apply=True)
        return 0

    def patch_weight_to_device(self, key: str, device_to: Any = None, *arguments: Any, **options: Any) -> Any:
        """Patch a weight as core does, with its original kept on the device, or pinned."""
        if key in self.patches and key not in self.backup and on_card(device_to):
            self._keep(key, device_to)
        return super().patch_weight_to_device(key, device_to, *arguments, **options)

    def _loaded_with_others(self, device_to: Any) -> bool:
        model = self.model
        other = model.current_weight_patches_uuid not in (None, self.patches_uuid)
        whole = not model.model_lowvram and model.model_loaded_weight_memory > 0
        return other and whole and model.device == device_to and on_card(device_to)

    def _change_patches(self, device_to: Any) -> None:
        for key, backup in list(self.backup.items()):
            set_attr_param(self.model, key, backup.weight.to(device_to, non_blocking=True))
            if key not in self.patches:
                del self.backup[key]
        for key in self.patches:
            self.patch_weight_to_device(key, device_to)
        self.model.current_weight_patches_uuid = self.patches_uuid

    def _keep(self, key: str, device_to: Any) -> None:
        """Put the original of a weight where a change of patches finds it quickly."""
        weight, *_ = get_key_weight(self.model, key)
        size = weight.numel() * weight.element_size()
        to_come = max(0, self.model_size() - self.model.model_loaded_weight_memory)
        room = management.get_free_memory(device_to) - management.minimum_inference_memory() - to_come
        if room - _SPARE_BYTES > size:
            original = weight.to(device_to)
            set_attr_param(self.model, key, original)
        else:
            original = _pinned(weight)
        self.backup[key] = _Backup(original, False)


def on_card(device: Any) -> bool:
    """Whether weights on ``device`` lie in a memory of their own, behind a bus."""
    return bool(management.is_device_cuda(device))


def _pinned(weight: torch.Tensor) -> torch.Tensor:
    """A copy in pinned memory, from where the device reads at its bus's rate."""
    copy = torch.empty_like(weight, device="cpu", pin_memory=True)
    return copy.copy_(weight)
