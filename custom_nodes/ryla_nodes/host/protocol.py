"""What a node may ask of the engine that it runs in.

Two engines implement it: ``host.comfy`` (inside a real ComfyUI) and ``host.diffusers`` (the embedded engine). Models,
CLIPs, VAEs and conditionings are the engine's own objects and opaque to the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..models.folders import ModelFolders

WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")


@dataclass(frozen=True)
class FluxFiles:
    """The files of one FLUX.1 Dev: the split set, or an all-in-one checkpoint (then the rest is None)."""

    transformer: Path
    clip_l: Path | None = None
    t5xxl: Path | None = None
    vae: Path | None = None

    @property
    def all_in_one(self) -> bool:
        return self.clip_l is None


@dataclass(frozen=True)
class LoraResult:
    """A patched model and CLIP with what matched.

    ``matched_model`` and ``matched_clip`` count the weights of the model that the file patches; ``unmatched`` names the
    file's keys that patched nothing.
    """

    model: Any
    clip: Any
    matched_model: int
    matched_clip: int
    unmatched: tuple[str, ...]


@dataclass(frozen=True)
class SaveTarget:
    """Where the next output file of a prefix goes; ``subfolder`` is relative to the output folder.

    ``metadata``: whether the engine allows the workflow to be stored in pictures.
    """

    folder: Path
    name: str
    counter: int
    subfolder: str
    metadata: bool = True


class Host(Protocol):
    """One engine, seen from a node."""

    @property
    def name(self) -> str:
        """``comfyui`` or ``embedded``."""

    def folders(self) -> ModelFolders:
        """The model folders of this engine, the volume's included."""

    def load_flux(self, files: FluxFiles, weight_dtype: str) -> tuple[Any, Any, Any]:
        """Load FLUX.1 Dev: (MODEL, CLIP, VAE). ``weight_dtype`` is one of ``WEIGHT_DTYPES``."""

    def default_flux(self) -> FluxFiles | None:
        """The engine's own stand-in weights, for when no real ones are there; None when it has none."""

    def load_checkpoint(self, path: Path) -> tuple[Any, Any, Any]:
        """Load an all-in-one checkpoint (SDXL): (MODEL, CLIP, VAE)."""

    def model_family(self, model: Any) -> str:
        """The family of a MODEL in the terms of ``lora.inspect`` (``flux``, ``sdxl`` ...), or ``unknown``."""

    def apply_lora(self, model: Any, clip: Any | None, path: Path, strength: float, clip_strength: float) -> LoraResult:
        """Patch clones of ``model`` and ``clip`` with the LoRA in ``path``; strengths are finite."""

    def save_target(self, prefix: str, width: int, height: int) -> SaveTarget:
        """The folder, name and first free counter for ``prefix`` (``%width%``-style tokens expanded, folder made)."""

    def check_interrupt(self) -> None:
        """Raise the engine's own interruption when the job was cancelled; call it inside long loops."""
