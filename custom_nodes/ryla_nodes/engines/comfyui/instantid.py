"""InstantID on ComfyUI's own SDXL UNet and ControlNet: attention patches and ``cross_attn_controlnet``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RylaError
from ...identity.attention import LAYERS, IdentityTerm, LayerKey, Window
from ..protocol import InstantIDSettings

if TYPE_CHECKING:
    import torch

    from ...identity.adapter import Adapter, Identity
    from ...identity.face_file import FaceIdentity

Patch = Callable[..., "torch.Tensor"]


def load_control_net(path: Path) -> Any:
    """A CONTROL_NET from a diffusers-format file. Raises ``wrong_controlnet``."""
    import comfy.controlnet

    control_net = comfy.controlnet.load_controlnet(str(path))
    if control_net is None:
        raise RylaError("wrong_controlnet", f"ComfyUI finds no ControlNet in {path}.")
    return control_net


def apply(
    model: Any,
    positive: Any,
    negative: Any,
    control_net: Any,
    adapter: Adapter,
    face: FaceIdentity,
    settings: InstantIDSettings,
) -> tuple[Any, Any, Any]:
    """A patched clone of ``model``, and both conditionings with the ControlNet.

    Raises:
        RylaError: ``not_sdxl``, ``wrong_adapter``, ``wrong_controlnet`` when they do not belong together.
    """
    _require_together(model, control_net, adapter)
    identity = adapter.identity(face, settings.noise, _dtype(model))
    shared: dict[Any, Any] = {}
    return (
        _patched(model, identity, settings),
        _controlled(positive, control_net, identity.cond, settings, shared),
        _controlled(negative, control_net, identity.uncond, settings, shared),
    )


def _require_together(model: Any, control_net: Any, adapter: Adapter) -> None:
    widths = _attention_widths(model)
    if widths is None:
        family = type(model.model).__name__
        raise RylaError("not_sdxl", f"InstantID's weights are for SDXL; this MODEL is {family}.")
    if widths != adapter.widths:
        raise RylaError("wrong_adapter", f"The layers of {adapter.path} are not as wide as this model's.")
    _check_control_net(control_net, model.model.adm_channels, adapter)


def _dtype(model: Any) -> torch.dtype:
    """The floating-point type that the model computes in."""
    import torch

    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    return dtype if dtype in (torch.float32, torch.float16, torch.bfloat16) else torch.float16


class IdentityPatch:
    """An ``attn2`` replacement that adds the identity's term to whatever was there."""

    def __init__(self, term: IdentityTerm, window: Window, base: Patch | None) -> None:
        self._term, self._window, self._base = term, window, base
        self._added: list[tuple[Patch, dict[str, Any]]] = []

    def add(self, callback: Patch, **options: Any) -> None:
        """The protocol of the IP-Adapter family, whose nodes call this on a patch that they find."""
        self._added.append((callback, options))

    @property
    def is_alone(self) -> bool:
        """Whether no other extension's patch is in it."""
        return not self._added and (
            self._base is None or (isinstance(self._base, IdentityPatch) and self._base.is_alone)
        )

    def acts(self, sigmas: Any) -> tuple[bool, ...]:
        """At the step ``sigmas``: whether this identity acts, and those before it that are patched as well."""
        before = self._base.acts(sigmas) if isinstance(self._base, IdentityPatch) else ()
        return (self._window.contains(sigmas), *before)

    def __call__(self, q: Any, k: Any, v: Any, extra_options: dict[str, Any]) -> Any:
        out = self._text(q, k, v, extra_options)
        if self._window.contains(extra_options["sigmas"]):
            size = (extra_options["original_shape"][-2], extra_options["original_shape"][-1])
            out = out + self._term(q, extra_options["cond_or_uncond"], extra_options["n_heads"], size)
        for callback, options in self._added:
            if options["sigma_start"] >= float(extra_options["sigmas"][0]) >= options["sigma_end"]:
                out = out + callback(out, q, k, v, extra_options, **options).to(q.dtype)
        return out

    def _text(self, q: Any, k: Any, v: Any, extra_options: dict[str, Any]) -> Any:
        if self._base is not None:
            return self._base(q, k, v, extra_options)
        from comfy.ldm.modules.attention import optimized_attention

        return optimized_attention(
            q,
            k,
            v,
            extra_options["n_heads"],
            attn_precision=extra_options.get("attn_precision"),
            transformer_options=extra_options,
        )


def _patched(model: Any, identity: Identity, settings: InstantIDSettings) -> Any:
    clone = model.clone()
    if settings.ip_weight == 0:
        return clone
    sampling = model.get_model_object("model_sampling")
    window = Window(sampling.percent_to_sigma(settings.start), sampling.percent_to_sigma(settings.end))
    present = clone.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    for key, kv in zip(LAYERS, identity.layers, strict=True):
        # ComfyUI looks up (block, number, depth), then (block, number): a patch of either kind goes on working.
        base = present.get(tuple(key), present.get(tuple(key[:2])))
        patch = IdentityPatch(IdentityTerm(kv, settings.ip_weight, settings.mask), window, base)
        clone.set_model_attn2_replace(patch, key.block, key.number, key.depth)
    return clone


def _controlled(
    conditioning: Sequence[Any],
    control_net: Any,
    tokens: torch.Tensor,
    settings: InstantIDSettings,
    shared: dict[Any, Any],
) -> list[Any]:
    """``conditioning`` with the ControlNet, which sees ``tokens`` instead of the text.

    ``shared``: one copy of the ControlNet per net before it, so that both halves can run in one batch.
    """
    import comfy.model_management

    if settings.cn_strength == 0:
        return list(conditioning)
    tokens = tokens.to(comfy.model_management.intermediate_device())
    result = []
    for text, options in conditioning:
        previous = options.get("control")
        if previous not in shared:
            hint = settings.keypoints.movedim(-1, 1)
            net = control_net.copy().set_cond_hint(hint, settings.cn_strength, (settings.start, settings.end))
            shared[previous] = net.set_previous_controlnet(previous)
        result.append(
            [
                text,
                {
                    **options,
                    "control": shared[previous],
                    "control_apply_to_uncond": False,
                    "cross_attn_controlnet": tokens,
                },
            ]
        )
    return result


def _attention_widths(model: Any) -> tuple[int, ...] | None:
    """Width of each layer of ``LAYERS``; None when the model does not have exactly SDXL's cross-attention layers."""
    unet = model.get_model_object("diffusion_model")
    if not hasattr(unet, "input_blocks") or not hasattr(unet, "middle_block"):
        return None
    layers = dict(_cross_attention(unet))
    if set(layers) != set(LAYERS):
        return None
    return tuple(layers[key].heads * layers[key].dim_head for key in LAYERS)


def _cross_attention(unet: Any) -> Iterator[tuple[LayerKey, Any]]:
    groups = (("input", unet.input_blocks), ("middle", [unet.middle_block]), ("output", unet.output_blocks))
    for block, containers in groups:
        for number, container in enumerate(containers):
            for module in container:
                for depth, transformer in enumerate(getattr(module, "transformer_blocks", ())):
                    yield LayerKey(block, number, depth), transformer.attn2


def _check_control_net(control_net: Any, adm_channels: int | None, adapter: Adapter) -> None:
    net: Any = getattr(control_net, "control_model", None)
    if not hasattr(net, "label_emb") or not hasattr(net, "input_hint_block"):
        kind = type(control_net).__name__
        raise RylaError(
            "wrong_controlnet", f"InstantID needs its own SDXL ControlNet; this one is a {kind} without SDXL's."
        )
    vector = net.label_emb[0][0].in_features
    if vector != adm_channels:
        widths = f"a vector of {vector}, SDXL's is {adm_channels}"
        raise RylaError("wrong_controlnet", f"This is not an SDXL ControlNet: it takes {widths}.")
    context = next(m for b in net.input_blocks for m in b if hasattr(m, "transformer_blocks"))
    width = context.transformer_blocks[0].attn2.to_k.in_features
    if width != adapter.token_width:
        line = f"The ControlNet reads tokens of {width}, the adapter makes tokens of {adapter.token_width}."
        raise RylaError("wrong_controlnet", line)
