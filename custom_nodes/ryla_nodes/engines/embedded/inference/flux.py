"""Flux's transformer: loaded from a BFL-named file, run on latents as ComfyUI runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ....errors import RylaError
from ....loras.flux_modules import to_diffusers
from .device import Placement
from .flux_network import HEAD_WIDTH, FluxNetwork, FluxShape
from .network import Network, fill
from .weights import WeightFile

PATCH = 2
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
        rows, columns = padded.shape[-2] // PATCH, padded.shape[-1] // PATCH
        device, dtype = self.placement.device, self.placement.dtype
        tokens = self.network.module(
            _to_tokens(padded).to(device, dtype),
            context.to(device, dtype),
            pooled[:, : self.shape.pooled].to(device, dtype),
            sigma.to(device),
            guidance.to(device),
            (rows, columns),
        )
        return _to_latent(tokens.float(), rows, columns)[..., :height, :width]


def load(file: WeightFile, weight_dtype: str, placement: Placement) -> FluxTransformer:
    """Build the transformer in ``file``.

    Args:
        weight_dtype: one of ``engines.protocol.WEIGHT_DTYPES``: an 8-bit float rounds the weights to it, and stores
            them so where the device can; ``default`` does so with 8-bit files only.

    Raises:
        RylaError: ``incomplete_weights``, ``unsupported_weights``.
    """
    shape = _shape(file)
    with torch.device("meta"):
        module = FluxNetwork(shape)
    weights = _weights(file, shape, module, _storage(file, weight_dtype), placement)
    return FluxTransformer(Network(fill(module, weights, str(file.path))), shape, placement)


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


def _weights(
    file: WeightFile, shape: FluxShape, module: nn.Module, storage: torch.dtype | None, placement: Placement
) -> Iterator[tuple[str, torch.Tensor]]:
    linear = {f"{name}.weight" for name, child in module.named_modules() if isinstance(child, nn.Linear)}
    for bfl_name, tensor in file.tensors():
        rounded = tensor if storage is None else tensor.to(storage)
        for name, part in to_diffusers(bfl_name, rounded, shape.hidden):
            kept = storage is not None and placement.stores_fp8 and name in linear
            # Converted before it is moved: not every device knows every dtype of a file.
            yield name, (part if kept else part.to(placement.dtype)).to(placement.device)


def _to_tokens(latent: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> [B, h/2 * w/2, C * 4], channels outermost within a token."""
    batch, channels, height, width = latent.shape
    patches = latent.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _to_latent(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse of ``_to_tokens``."""
    patches = tokens.reshape(tokens.shape[0], rows, columns, -1, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
