"""Flux's transformer: loaded from a BFL-named file, run on latents as ComfyUI runs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ...errors import RylaError
from .device import Placement
from .flux_keys import to_diffusers
from .network import Network, fill
from .weights import WeightFile

HEAD_WIDTH = 128
ROPE_AXES = (16, 56, 56)
PATCH = 2
_FILE_FP8 = {"F8_E4M3": "fp8_e4m3fn", "F8_E5M2": "fp8_e5m2"}


@dataclass(frozen=True)
class FluxShape:
    """The dimensions of a Flux, read from its file."""

    hidden: int
    latent_channels: int
    context: int
    pooled: int
    double_blocks: int
    single_blocks: int
    guidance: bool

    @classmethod
    def of(cls, file: WeightFile) -> FluxShape:
        """Read them from the header. Raises ``incomplete_weights``; ``unsupported_weights`` for no Flux's width."""
        hidden, patch = file.shape("img_in.weight")
        if hidden % HEAD_WIDTH:
            raise RylaError(
                "unsupported_weights",
                f"{file.path}: a width of {hidden} is no multiple of Flux's heads of {HEAD_WIDTH}.",
            )
        return cls(
            hidden=hidden,
            latent_channels=patch // PATCH**2,
            context=file.shape("txt_in.weight")[1],
            pooled=file.shape("vector_in.in_layer.weight")[1],
            double_blocks=file.count("double_blocks.{}."),
            single_blocks=file.count("single_blocks.{}."),
            guidance="guidance_in.in_layer.weight" in file,
        )


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
        scalars = [sigma.to(device, torch.float32)]
        if self.shape.guidance:
            scalars.append(guidance.to(device, torch.float32))
        arguments: dict[str, Any] = {
            "hidden_states": _to_tokens(padded).to(device, dtype),
            "timestep": scalars[0],
            "guidance": scalars[1] if self.shape.guidance else None,
            "encoder_hidden_states": context.to(device, dtype),
            "pooled_projections": pooled[:, : self.shape.pooled].to(device, dtype),
            "img_ids": _positions(rows, columns, device),
            "txt_ids": torch.zeros(context.shape[1], 3, device=device),
        }
        with _in_full_precision(self.network.module, scalars):
            tokens = self.network.module(**arguments, return_dict=False)[0]
        return _to_latent(tokens.float(), rows, columns)[..., :height, :width]


def load(file: WeightFile, weight_dtype: str, placement: Placement) -> FluxTransformer:
    """Build the transformer in ``file``.

    Args:
        weight_dtype: one of ``host.protocol.WEIGHT_DTYPES``: an 8-bit float rounds the weights to it, and stores
            them so where the device can; ``default`` does so with 8-bit files only.

    Raises:
        RylaError: ``incomplete_weights``, ``unsupported_weights``.
    """
    from accelerate import init_empty_weights
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    shape = FluxShape.of(file)
    with init_empty_weights():
        module = FluxTransformer2DModel(
            in_channels=shape.latent_channels * PATCH**2,
            num_layers=shape.double_blocks,
            num_single_layers=shape.single_blocks,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=shape.hidden // HEAD_WIDTH,
            joint_attention_dim=shape.context,
            pooled_projection_dim=shape.pooled,
            guidance_embeds=shape.guidance,
            axes_dims_rope=ROPE_AXES,
        )
    weights = _weights(file, shape, module, _storage(file, weight_dtype), placement)
    return FluxTransformer(Network(fill(module, weights, str(file.path))), shape, placement)


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


@contextmanager
def _in_full_precision(module: nn.Module, scalars: Sequence[torch.Tensor]) -> Iterator[None]:
    """Embed the noise level and the guidance from float32, as ComfyUI does.

    diffusers rounds them to the network's dtype first: in bfloat16 that moves a time of 759.5 to 760, and with it the
    embedding's faster waves by radians.
    """
    embedding = module.get_submodule("time_text_embed")
    scaled = [scalar * 1000.0 for scalar in scalars]
    hook = embedding.register_forward_pre_hook(lambda _, arguments: (*scaled, arguments[-1]))
    try:
        yield
    finally:
        hook.remove()


def _to_tokens(latent: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> [B, h/2 * w/2, C * 4], channels outermost within a token."""
    batch, channels, height, width = latent.shape
    patches = latent.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _to_latent(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse of ``_to_tokens``."""
    patches = tokens.reshape(tokens.shape[0], rows, columns, -1, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _positions(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """[rows * columns, 3]: zero, row, column."""
    grid = torch.zeros(rows, columns, 3, device=device)
    grid[..., 1] = torch.arange(rows, device=device)[:, None]
    grid[..., 2] = torch.arange(columns, device=device)[None, :]
    return grid.flatten(0, 1)
