"""Flux as a MODEL of the embedded engine: loaded from its file, run on latents as ComfyUI runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from .... import settings
from ....errors import RylaError
from ...loading.unread import Unread, UnreadWeight
from ...speed import keeping
from ..execution.calls import check_interrupt
from .flux_network import HEAD_WIDTH, PATCH, Flux, FluxShape
from .sampling import LatentScale, MaskFunction, repeated
from .schedules import FlowSampling
from .text import Conditioning
from .weights import Network, Patch, Placement, WeightFile, fill, has_bus

DEFAULT_GUIDANCE = 3.5  # ComfyUI's, for a conditioning that went through no FluxGuidance.
LATENT = LatentScale(scale=0.3611, shift=0.1159)
_FILE_FP8 = {"F8_E4M3": "fp8_e4m3fn", "F8_E5M2": "fp8_e5m2"}


@dataclass(frozen=True)
class FluxTransformer:
    """The network with its dimensions and its place."""

    network: Network
    shape: FluxShape
    placement: Placement

    @torch.inference_mode()
    def velocity(
        self,
        latent: torch.Tensor,
        sigma: torch.Tensor,
        context: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor,
    ) -> torch.Tensor:
        """The flow's velocity (noise - picture) at ``latent``.

        Args:
            latent: [B, C, h, w], h and w of any size (odd ones are padded circularly for the call).
            sigma: [B], in 0..1.
            context: [B, T, D] T5 states; pooled: [B, D'] CLIP's pooled state.
            guidance: [B], the distilled guidance scale; without effect on a Flux that has no embedding for it.

        Returns:
            [B, C, h, w] in float32.
        """
        height, width = latent.shape[-2:]
        padded = functional.pad(latent, (0, width % PATCH, 0, height % PATCH), mode="circular")
        device, dtype = self.placement.device, self.placement.dtype
        velocity: torch.Tensor = self.network.module(
            padded.to(device, dtype),
            sigma.to(device),
            context.to(device, dtype),
            pooled[:, : self.shape.pooled].to(device, dtype),
            guidance.to(device),
        )
        return velocity.float()[..., :height, :width]


@dataclass(frozen=True)
class FluxModel:
    """What the engine calls a MODEL; ``sampling.Model`` says what its members mean."""

    family: ClassVar[str] = "flux"

    transformer: FluxTransformer
    sampling: FlowSampling = field(default_factory=FlowSampling)
    latent: LatentScale = LATENT
    mask_function: MaskFunction | None = None

    @property
    def latent_channels(self) -> int:
        return self.transformer.shape.latent_channels

    @property
    def device(self) -> torch.device:
        return self.transformer.placement.device

    @property
    def accelerated(self) -> bool:
        """Whether its blocks run compiled; see ``speed``."""
        return self.transformer.network.accelerated

    def patched(self, patches: Iterable[Patch]) -> FluxModel:
        """A clone with further patches on the transformer."""
        network = self.transformer.network.patched(patches)
        return replace(self, transformer=replace(self.transformer, network=network))

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning, negative: bool) -> torch.Tensor:
        """The picture latent that the network sees behind ``x`` [B, C, h, w] at the noise level ``sigma`` (scalar)."""
        context, values = conditioning[0]
        batch = len(x)
        guidance = torch.tensor(float(values.get("guidance", DEFAULT_GUIDANCE)))
        velocity = self.transformer.velocity(
            x,
            sigma.expand(batch),
            repeated(context, batch),
            repeated(values["pooled_output"], batch),
            guidance.expand(batch),
        )
        return x - velocity * sigma


def load(file: WeightFile, weight_dtype: str, placement: Placement) -> FluxModel:
    """The model of the transformer in ``file``.

    Args:
        weight_dtype: one of ``engines.protocol.WEIGHT_DTYPES``: an 8-bit float rounds the weights to it, and stores
            them so where the device can; ``default`` does so with 8-bit files only.

    Raises:
        RylaError: ``incomplete_weights``, ``unsupported_weights``.
    """
    shape = _shape(file)
    with torch.device("meta"):
        module = Flux(shape)
    storage = _storage(file, weight_dtype)
    network = fill(module, _weights(file, module, storage, placement), str(file.path))
    if _as_in_file(file, storage, placement):
        keeping.came_from(network, file.path)
    return FluxModel(FluxTransformer(Network(network), shape, placement))


def _shape(file: WeightFile) -> FluxShape:
    hidden, token = file.shape("img_in.weight")
    if hidden % HEAD_WIDTH:
        raise RylaError(
            "unsupported_weights",
            f"{file.path}: a width of {hidden} is no multiple of Flux's heads of {HEAD_WIDTH}.",
        )
    return FluxShape(
        hidden=hidden,
        latent_channels=token // PATCH**2,
        context=file.shape("txt_in.weight")[1],
        pooled=file.shape("vector_in.in_layer.weight")[1],
        double_blocks=file.count("double_blocks.{}."),
        single_blocks=file.count("single_blocks.{}."),
        guidance="guidance_in.in_layer.weight" in file,
    )


def _storage(file: WeightFile, weight_dtype: str) -> torch.dtype | None:
    """The 8-bit dtype to round the weights to, or None."""
    if weight_dtype == "default":
        weight_dtype = _FILE_FP8.get(file.fp8() or "", "default")
    if weight_dtype == "default":
        return None
    return torch.float8_e5m2 if weight_dtype == "fp8_e5m2" else torch.float8_e4m3fn


def _as_in_file(file: WeightFile, storage: torch.dtype | None, placement: Placement) -> bool:
    """Whether the matrices go to a card as they are in their file, so that what is kept of it stands for them."""
    return has_bus(placement.device) and storage is None and placement.dtype == torch.bfloat16 and not file.prefix


def _weights(
    file: WeightFile, module: nn.Module, storage: torch.dtype | None, placement: Placement
) -> Iterator[tuple[str, torch.Tensor]]:
    linear = {f"{name}.weight" for name, child in module.named_modules() if isinstance(child, nn.Linear)}
    later: dict[str, UnreadWeight] = {}
    if _as_in_file(file, storage, placement):
        in_8_bits = keeping.find(settings.load().volume, file.path, placement.device)
        if in_8_bits is not None:
            later = Unread(file.header, in_8_bits, check_interrupt).weights(placement.device)
    yield from later.items()
    for name, tensor in file.tensors(placement.device, but=later):
        rounded = tensor if storage is None else tensor.to(storage)
        kept = storage is not None and placement.stores_fp8 and name in linear
        # Converted before it is moved: not every device knows every dtype of a file.
        part = rounded if kept else rounded.to(placement.dtype)
        # ComfyUI's ModelSave calls a head's scale its weight.
        yield name.replace("_norm.weight", "_norm.scale"), part.to(placement.device)
