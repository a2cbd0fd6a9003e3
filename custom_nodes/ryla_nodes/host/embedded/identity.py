"""InstantID on the embedded engine's SDXL: the same terms as in ComfyUI, added by attention processors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RylaError
from ..identity import IdentitySettings, StandIns

if TYPE_CHECKING:
    import torch

    from ...identity.adapter import Adapter, Identity
    from .sdxl_model import Control


class EmbeddedIdentity:
    """``host.identity.IdentityBackend`` over diffusers."""

    def stand_ins(self) -> StandIns | None:
        from .. import current
        from . import tiny_sdxl
        from .host import DiffusersHost

        engine = current()
        return tiny_sdxl.ensure(engine.home / "models") if isinstance(engine, DiffusersHost) else None

    def load_control_net(self, path: Path) -> Any:
        from . import device, sdxl

        return sdxl.load_control_net(path, device.best())

    def check(self, model: Any, control_net: Any, adapter: Adapter) -> None:
        from .sdxl import ControlNet
        from .sdxl_model import SdxlModel

        if not isinstance(model, SdxlModel):
            family = type(model).__name__.removesuffix("Model")
            raise RylaError("not_sdxl", f"InstantID's weights are for SDXL; this MODEL is {family}.")
        if model.widths != adapter.widths:
            raise RylaError("wrong_adapter", f"The layers of {adapter.path} are not as wide as this model's.")
        if not isinstance(control_net, ControlNet) or control_net.added != model.added:
            raise RylaError("wrong_controlnet", "This is not a ControlNet of this SDXL model's family.")
        if control_net.token_width != adapter.token_width:
            widths = f"tokens of {control_net.token_width}, the adapter makes tokens of {adapter.token_width}"
            raise RylaError("wrong_controlnet", f"The ControlNet reads {widths}.")

    def dtype(self, model: Any) -> torch.dtype:
        dtype: torch.dtype = model.placement.dtype
        return dtype

    def apply(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        control_net: Any,
        identity: Identity,
        settings: IdentitySettings,
    ) -> tuple[Any, Any, Any]:
        from ...identity.attention import IdentityTerm, Window
        from .sdxl_model import Control

        start, end = (model.sampling.sigma_at(part) for part in (settings.start, settings.end))
        patched = model
        if settings.ip_weight != 0:
            terms = [IdentityTerm(kv, settings.ip_weight, settings.mask) for kv in identity.layers]
            patched = model.with_identity(terms, Window(start, end))
        if settings.cn_strength == 0:
            return patched, list(positive), list(negative)
        control = Control(control_net, settings.keypoints.movedim(-1, 1), settings.cn_strength, start, end)
        return (
            patched,
            _controlled(positive, control, identity.cond),
            _controlled(negative, control, identity.uncond),
        )


def _controlled(conditioning: Sequence[Any], control: Control, tokens: torch.Tensor) -> list[Any]:
    return [
        [text, {**values, "control": replace(control, previous=values.get("control")), "cross_attn_controlnet": tokens}]
        for text, values in conditioning
    ]
