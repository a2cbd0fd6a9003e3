"""SDXL as a MODEL of the embedded engine: ControlNets, identities, differential diffusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from .sampling import LatentScale, MaskFunction, repeated
from .schedules import NoiseSampling, Sampling
from .text import Conditioning
from .weights import Network, Placement

if TYPE_CHECKING:
    from ....identity.attention import IdentityTerm, Window

LATENT = LatentScale(scale=0.13025)


@dataclass(frozen=True)
class ControlNet:
    """What the engine calls a CONTROL_NET. ``token_width``: of the context it reads; ``added``: of its vector input.

    ``hints`` turns a hint picture into what ``network`` takes for it.
    """

    network: Network
    hints: nn.Module
    placement: Placement
    token_width: int
    added: int


@dataclass(frozen=True)
class Control:
    """A ControlNet as it hangs on a conditioning under ``control``; ``previous`` acts as well.

    ``hint`` is (B, 3, H, W) at the sampling size; it acts at sigmas in [end, start].
    """

    net: ControlNet
    hint: torch.Tensor
    strength: float
    start: float
    end: float
    previous: Control | None = None
    _features: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    def features(self, latent: torch.Tensor) -> torch.Tensor:
        """The hint as the network takes it beside ``latent``: the same at every step, and as costly as one."""
        key = (len(latent), *latent.shape[-2:])
        if key not in self._features:
            self._features[key] = self.net.hints(_hint(self.hint, latent))
        return self._features[key]


@dataclass(frozen=True)
class ActiveIdentity:
    """What one call of the UNet adds: per identity a term for each layer of ``LAYERS``.

    ``half``: 0 for the conditional, 1 for the unconditional side; ``latent_size``: height and width.
    """

    terms: Sequence[Sequence[IdentityTerm]]
    half: int
    latent_size: tuple[int, int]


@dataclass(frozen=True)
class AppliedIdentity:
    """Terms of one identity, for a part of the schedule."""

    terms: tuple[IdentityTerm, ...]
    window: Window


@dataclass(frozen=True)
class SdxlModel:
    """What the engine calls a MODEL; ``sampling.Model`` says what its other members mean.

    Attributes:
        added: width of the vector input: pooled text and six sizes of 256 each (2816).
        widths: of the 70 cross-attention layers, in the order of ``identity.attention.LAYERS``.
    """

    family: ClassVar[str] = "sdxl"

    network: Network
    placement: Placement
    added: int
    widths: tuple[int, ...]
    sampling: NoiseSampling = field(default_factory=NoiseSampling)
    latent: LatentScale = LATENT
    identities: tuple[AppliedIdentity, ...] = ()
    mask_function: MaskFunction | None = None

    @property
    def latent_channels(self) -> int:
        return 4

    @property
    def device(self) -> torch.device:
        return self.placement.device

    def with_identity(self, terms: Sequence[IdentityTerm], window: Window) -> SdxlModel:
        """A clone that also renders this identity; the network is shared."""
        return replace(self, identities=(*self.identities, AppliedIdentity(tuple(terms), window)))

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning, negative: bool) -> torch.Tensor:
        """The picture latent that the network sees behind ``x`` [B, 4, h, w] at ``sigma``: ``x - sigma * noise``."""
        context, values = conditioning[0]
        scaled = (x / (sigma**2 + 1).sqrt()).to(self.device, self.placement.dtype)
        arguments: dict[str, Any] = {
            "timestep": self.sampling.time(sigma).to(self.device).expand(len(x)),
            "encoder_hidden_states": repeated(context, len(x)).to(scaled),
            "added_cond_kwargs": added(values, scaled),
        }
        tokens = values.get("cross_attn_controlnet")
        seen = arguments["encoder_hidden_states"] if tokens is None else repeated(tokens, len(x)).to(scaled)
        nets = [(control, seen, control.features(scaled)) for control in active_controls(values, sigma)]
        terms = tuple(applied.terms for applied in self.identities if applied.window.contains(sigma))
        if terms:
            active = ActiveIdentity(terms, int(negative), (x.shape[-2], x.shape[-1]))
            arguments["cross_attention_kwargs"] = {"identity": active}
        arguments |= residuals(nets, scaled, arguments)
        noise: torch.Tensor = self.network.module(scaled, **arguments, return_dict=False)[0]
        return x - noise.float() * sigma


def added(values: dict[str, Any], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pooled text, and (original, crop, target) sizes as ComfyUI fills them in: the picture's own, uncropped."""
    height, width = (8 * side for side in x.shape[-2:])
    sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(x)).to(x)
    return {"text_embeds": repeated(values["pooled_output"], len(x)).to(x), "time_ids": sizes}


def active_controls(values: Mapping[str, Any], sigma: torch.Tensor) -> list[Control]:
    """The ControlNets of a conditioning that act at ``sigma``."""
    found: list[Control] = []
    control: Control | None = values.get("control")
    while control is not None:
        if control.start >= float(sigma) >= control.end:
            found.append(control)
        control = control.previous
    return found


def residuals(
    nets: Iterable[tuple[Control, torch.Tensor, torch.Tensor]], scaled: torch.Tensor, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """What ControlNets add, summed, as the UNet takes it.

    Args:
        nets: each with the tokens that it reads [B, T, D] and the features of its hint.
    """
    downs: list[torch.Tensor] = []
    middle: torch.Tensor | None = None
    for control, tokens, features in nets:
        down, mid = control.net.network.module(
            scaled,
            timestep=arguments["timestep"],
            encoder_hidden_states=tokens,
            controlnet_cond=features,
            conditioning_scale=control.strength,
            added_cond_kwargs=arguments["added_cond_kwargs"],
            return_dict=False,
        )
        downs = [a + b for a, b in zip(downs, down, strict=True)] if downs else list(down)
        middle = mid if middle is None else middle + mid
    if middle is None:
        return {}
    return {"down_block_additional_residuals": downs, "mid_block_additional_residual": middle}


def _hint(hint: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """The hint at the latent's size in pixels, as many as there are latents; scaled by nearest-exact as in ComfyUI."""
    size = (8 * latent.shape[-2], 8 * latent.shape[-1])
    if hint.shape[-2:] != size:
        hint = torch.nn.functional.interpolate(hint, size=size, mode="nearest-exact")
    return repeated(hint, len(latent)).to(latent)


def differential(sampling: Sampling, strength: float) -> MaskFunction:
    """Differential diffusion (arXiv 2306.00950): a pixel of mask m is sampled during the last part m of the run."""

    def threshold(sigma: torch.Tensor, mask: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        first = sampling.time(levels[0])
        last = sampling.time(levels[-1].clamp(min=sampling.sigma_min))
        binary = (mask >= (sampling.time(sigma) - last) / (first - last)).to(mask.dtype)
        return binary * strength + mask * (1 - strength) if 0 < strength < 1 else binary

    return threshold
