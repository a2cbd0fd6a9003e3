"""InstantID on the embedded engine's SDXL: the same terms as in ComfyUI, added by diffusers' attention processors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ....errors import RylaError
from ....identity.adapter import Adapter
from ....identity.attention import LAYERS, IdentityTerm, Window
from ....identity.face_file import FaceIdentity
from ...protocol import InstantIDSettings
from .sdxl_model import ActiveIdentity, Control, ControlNet, SdxlModel


def apply(
    model: Any,
    positive: Any,
    negative: Any,
    control_net: Any,
    adapter: Adapter,
    face: FaceIdentity,
    settings: InstantIDSettings,
) -> tuple[SdxlModel, list[Any], list[Any]]:
    """A patched clone of ``model``, and both conditionings with the ControlNet.

    Raises:
        RylaError: ``not_sdxl``, ``wrong_adapter``, ``wrong_controlnet`` when they do not belong together.
    """
    sdxl = _require_together(model, control_net, adapter)
    identity = adapter.identity(face, settings.noise, sdxl.placement.dtype)
    start, end = (sdxl.sampling.sigma_at(part) for part in (settings.start, settings.end))
    patched = sdxl
    if settings.ip_weight != 0:
        terms = [IdentityTerm(kv, settings.ip_weight, settings.mask) for kv in identity.layers]
        patched = sdxl.with_identity(terms, Window(start, end))
    if settings.cn_strength == 0:
        return patched, list(positive), list(negative)
    control = Control(control_net, settings.keypoints.movedim(-1, 1), settings.cn_strength, start, end)
    return (
        patched,
        _controlled(positive, control, identity.cond),
        _controlled(negative, control, identity.uncond),
    )


def _require_together(model: Any, control_net: Any, adapter: Adapter) -> SdxlModel:
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
    return model


def _controlled(conditioning: Sequence[Any], control: Control, tokens: torch.Tensor) -> list[Any]:
    return [
        [text, {**values, "control": replace(control, previous=values.get("control")), "cross_attn_controlnet": tokens}]
        for text, values in conditioning
    ]


class IdentityProcessor:
    """SDXL's attention with room for an identity.

    ``position`` is the layer's place in ``LAYERS``, None for self-attention.
    """

    def __init__(self, position: int | None) -> None:
        self.position = position

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        identity: ActiveIdentity | None = None,
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.to_q(hidden_states)
        parts = (q, attn.to_k(context), attn.to_v(context))
        heads = (part.reshape(*part.shape[:2], attn.heads, -1).transpose(1, 2) for part in parts)
        out = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        if identity is not None and self.position is not None:
            for terms in identity.terms:
                out = out + terms[self.position](q, (identity.half,), attn.heads, identity.latent_size)
        projected: torch.Tensor = attn.to_out[0](out)
        return projected


def install(unet: nn.Module) -> tuple[int, ...]:
    """Give every attention of ``unet`` its processor; returns the widths of the cross-attention layers in order."""
    widths: list[int] = []
    for name, module in _attention(unet):
        crosses = name.endswith("attn2")
        module.set_processor(IdentityProcessor(len(widths) if crosses else None))
        if crosses:
            widths.append(module.to_q.out_features)
    assert len(widths) == len(LAYERS)
    return tuple(widths)


def _attention(unet: Any) -> Iterator[tuple[str, Any]]:
    """Attention modules in the adapter's order: down, up, mid."""
    for part in (unet.down_blocks, unet.up_blocks, unet.mid_block):
        for name, module in part.named_modules():
            if name.endswith(("attn1", "attn2")):
                yield name, module
