"""All that a node may ask of the engine that it runs in.

Two engines implement it: ``engines.comfyui`` (inside a real ComfyUI) and ``engines.embedded`` (our own). Models, CLIPs,
VAEs, ControlNets and conditionings are the engine's own objects and opaque to the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..models.flux_files import FluxFiles
from ..models.folders import ModelFolders
from ..models.identity_files import IdentityFiles

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..identity.adapter import Adapter
    from ..identity.face_file import FaceIdentity
    from ..loras.check import LoraResult

WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")
SpeedMode = Literal["off", "exact", "fast"]
SPEED_MODES: tuple[SpeedMode, ...] = ("off", "exact", "fast")


@dataclass(frozen=True)
class InstantIDSettings:
    """How an identity acts on sampling.

    Attributes:
        keypoints: IMAGE (B, H, W, 3), drawn at the sampling size.
        ip_weight: weight of the identity tokens in cross-attention. cn_strength: of the ControlNet.
        start, end: the part of the schedule in which both act, as fractions in [0, 1].
        noise: share of noise in place of the empty face on the negative side, in [0, 1].
        mask: MASK (B, H, W) that limits the cross-attention to a part of the picture.
    """

    keypoints: torch.Tensor
    ip_weight: float
    cn_strength: float
    start: float = 0.0
    end: float = 1.0
    noise: float = 0.0
    mask: torch.Tensor | None = None


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


class Engine(Protocol):
    """One engine, seen from a node."""

    @property
    def name(self) -> str:
        """``comfyui`` or ``embedded``."""

    def folders(self) -> ModelFolders:
        """The model folders of this engine, the volume's included."""

    def default_flux(self) -> FluxFiles | None:
        """The engine's own small FLUX.1, for when no real one is there; None when it has none."""

    def default_identity(self) -> IdentityFiles | None:
        """The engine's own small SDXL, InstantID and face models, for when no real ones are there; else None."""

    def load_flux(self, files: FluxFiles, weight_dtype: str) -> tuple[Any, Any, Any]:
        """Load FLUX.1 Dev: (MODEL, CLIP, VAE). ``weight_dtype`` is one of ``WEIGHT_DTYPES``."""

    def load_checkpoint(self, path: Path) -> tuple[Any, Any, Any]:
        """Load an all-in-one checkpoint (SDXL): (MODEL, CLIP, VAE)."""

    def load_control_net(self, path: Path) -> Any:
        """A CONTROL_NET from a diffusers-format file. Raises ``wrong_controlnet``."""

    def model_family(self, model: Any) -> str:
        """The family of a MODEL in the terms of ``loras.families`` (``flux``, ``sdxl`` ...), or ``unknown``."""

    def apply_lora(self, model: Any, clip: Any | None, path: Path, strength: float, clip_strength: float) -> LoraResult:
        """Patch clones of ``model`` and ``clip`` with the LoRA in ``path``; strengths are finite."""

    def accelerate(self, model: Any, mode: SpeedMode) -> tuple[Any, str]:
        """A clone of ``model`` that runs faster, and one line that says what was done, or why nothing was.

        Where ``mode`` cannot be had, ``model`` itself comes back.
        """

    def expect(self, prompt: Any) -> None:
        """Begin what a submitted graph will need and what takes a while, in the background; it may be anything."""

    def apply_instantid(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        control_net: Any,
        adapter: Adapter,
        face: FaceIdentity,
        settings: InstantIDSettings,
    ) -> tuple[Any, Any, Any]:
        """A patched clone of ``model``, and conditionings that carry the ControlNet; nothing given is changed.

        Raises:
            RylaError: ``not_sdxl``, ``wrong_controlnet`` or ``wrong_adapter`` when they do not belong together.
        """

    def save_target(self, prefix: str, width: int, height: int) -> SaveTarget:
        """The folder, name and first free counter for ``prefix`` (``%width%``-style tokens expanded, folder made)."""

    def preview(self, pictures: Iterable[NDArray[np.uint8]]) -> list[dict[str, str]]:
        """Put pictures (H, W, 3), RGB, into the temp folder for an editor: what names each in a report's ``images``.

        An engine without an editor takes none of them, so that they need not be drawn for it.
        """

    def check_interrupt(self) -> None:
        """Raise the engine's own interruption when the job was cancelled; call it inside long loops."""


_running: ContextVar[Engine] = ContextVar("ryla_engine")
_process_engine: list[Engine] = []


def current_engine() -> Engine:
    """The engine that runs this code: the one of the innermost ``running_in``, else the process's."""
    return _running.get(None) or _process_engine[-1]


@contextmanager
def running_in(engine: Engine) -> Iterator[None]:
    """Within this block nodes run in ``engine``; several embedded engines may live in one process."""
    token = _running.set(engine)
    try:
        yield
    finally:
        _running.reset(token)


def set_process_engine(engine: Engine) -> None:
    """Let nodes of this process, in every thread, run in ``engine``: inside ComfyUI there is one."""
    _process_engine[:] = [engine]
