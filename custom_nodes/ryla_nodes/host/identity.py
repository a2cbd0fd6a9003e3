"""What the identity nodes ask of an engine: one set of functions, over ComfyUI's or diffusers' models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from . import inside_comfyui

if TYPE_CHECKING:
    import torch

    from ..identity.adapter import Adapter, Identity


@dataclass(frozen=True)
class StandIns:
    """Small made-up models that an engine brings for when no real ones are there; ``insightface`` is a folder."""

    checkpoint: Path
    adapter: Path
    control_net: Path
    insightface: Path


@dataclass(frozen=True)
class IdentitySettings:
    """How an identity acts on sampling.

    Attributes:
        keypoints: IMAGE (B, H, W, 3), drawn at the sampling size.
        ip_weight: weight of the identity tokens in cross-attention. cn_strength: of the ControlNet.
        start, end: the part of the schedule in which both act, as fractions in [0, 1].
        mask: MASK (B, H, W) that limits the cross-attention to a part of the picture.
    """

    keypoints: torch.Tensor
    ip_weight: float
    cn_strength: float
    start: float = 0.0
    end: float = 1.0
    mask: torch.Tensor | None = None


class IdentityBackend(Protocol):
    """The engine's side of InstantID."""

    def stand_ins(self) -> StandIns | None:
        """The engine's own small models, made when they are not there yet; None when it has none."""

    def load_control_net(self, path: Path) -> Any:
        """A CONTROL_NET from a diffusers-format file. Raises ``wrong_controlnet``."""

    def check(self, model: Any, control_net: Any, adapter: Adapter) -> None:
        """Raise ``not_sdxl``, ``wrong_controlnet`` or ``wrong_adapter`` when the three do not belong together."""

    def dtype(self, model: Any) -> torch.dtype:
        """The floating-point type that the model computes in."""

    def apply(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        control_net: Any,
        identity: Identity,
        settings: IdentitySettings,
    ) -> tuple[Any, Any, Any]:
        """A patched clone of ``model``, and conditionings that carry the ControlNet; nothing given is changed."""


def backend() -> IdentityBackend:
    """The backend of this process's engine."""
    if inside_comfyui():
        from .comfy_identity import ComfyIdentity

        return ComfyIdentity()
    from .embedded.identity import EmbeddedIdentity

    return EmbeddedIdentity()
