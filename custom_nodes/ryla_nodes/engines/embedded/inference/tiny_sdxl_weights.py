"""Weights for small models of SDXL's and InstantID's design: true key names and all 70 layers, a tenth of the width or
less, so that a picture of SDXL's size takes seconds on a CPU.

The UNet takes what is rough in its input for the noise, so that sampling leaves a smooth picture that prompt, face and
keypoints colour; the VAE keeps a picture's coarse colours. Made up, and the same on every machine.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

import torch
from torch import nn

from ....identity.attention import LAYERS, adapter_name
from .text_networks import ClipShape, ClipText
from .vae import Autoencoder, VaeShape

Shapes = Iterable[tuple[str, tuple[int, ...]]]
Tensors = dict[str, torch.Tensor]

CHANNELS = 32
CONTEXT = 128  # CLIP-L and CLIP-G, 64 each.
CLIP_WIDTH = 64
CLIP_LAYERS = 3
POOLED = 1280  # With six sizes of 256 it makes SDXL's 2816, by which such models are told.
ADDED = POOLED + 6 * 256
TOKENS, EMBEDDING, RESAMPLER = 16, 512, 128
LATENT = 4
_WIDTHS = (CHANNELS, CHANNELS, 2 * CHANNELS)
_DEPTHS = (0, 2, 10)
_VAE_WIDTHS = (32, 32, 32, 128)
_VAE_GAIN = 120.0
_BLUR = torch.tensor([0.25, 0.5, 0.25])


def unet() -> Shapes:
    """The UNet's names and shapes in the original (LDM) layout."""
    first, last = CHANNELS, _WIDTHS[-1]
    embedding = 4 * first
    for name, source in (("time_embed", first), ("label_emb.0", ADDED)):
        yield from _linear(f"{name}.0", embedding, source)
        yield from _linear(f"{name}.2", embedding, embedding)
    yield from _conv("input_blocks.0.0", first, LATENT)
    skips, width, number = [first], first, 1
    for level, target in enumerate(_WIDTHS):
        for _ in range(2):
            yield from _residual(f"input_blocks.{number}.0", width, target)
            yield from _transformer(f"input_blocks.{number}.1", target, _DEPTHS[level])
            width, number = target, number + 1
            skips.append(width)
        if level < 2:
            yield from _conv(f"input_blocks.{number}.0.op", width, width)
            number += 1
            skips.append(width)
    yield from _residual("middle_block.0", last, last)
    yield from _transformer("middle_block.1", last, _DEPTHS[-1])
    yield from _residual("middle_block.2", last, last)
    for number in range(9):
        level = 2 - number // 3
        target = _WIDTHS[level]
        yield from _residual(f"output_blocks.{number}.0", width + skips.pop(), target)
        yield from _transformer(f"output_blocks.{number}.1", target, _DEPTHS[level])
        width = target
        if level and number % 3 == 2:
            yield from _conv(f"output_blocks.{number}.{2 if _DEPTHS[level] else 1}.conv", width, width)
    yield from _norm("out.0", first)
    yield from _conv("out.2", LATENT, first)


def _residual(block: str, source: int, width: int) -> Shapes:
    yield from _norm(f"{block}.in_layers.0", source)
    yield from _conv(f"{block}.in_layers.2", width, source)
    yield from _linear(f"{block}.emb_layers.1", width, 4 * CHANNELS)
    yield from _norm(f"{block}.out_layers.0", width)
    yield from _conv(f"{block}.out_layers.3", width, width)
    if source != width:
        yield from _conv(f"{block}.skip_connection", width, source, size=1)


def _transformer(block: str, width: int, depth: int) -> Shapes:
    if not depth:
        return
    yield from _norm(f"{block}.norm", width)
    yield from _linear(f"{block}.proj_in", width, width)
    yield from _linear(f"{block}.proj_out", width, width)
    for index in range(depth):
        inner = f"{block}.transformer_blocks.{index}"
        for norm in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{inner}.{norm}", width)
        for attention, context in (("attn1", width), ("attn2", CONTEXT)):
            yield f"{inner}.{attention}.to_q.weight", (width, width)
            yield f"{inner}.{attention}.to_k.weight", (width, context)
            yield f"{inner}.{attention}.to_v.weight", (width, context)
            yield from _linear(f"{inner}.{attention}.to_out.0", width, width)
        yield from _linear(f"{inner}.ff.net.0.proj", 8 * width, width)
        yield from _linear(f"{inner}.ff.net.2", width, 4 * width)


def _conv(name: str, out: int, source: int, size: int = 3) -> Shapes:
    yield f"{name}.weight", (out, source, size, size)
    yield f"{name}.bias", (out,)


def _linear(name: str, out: int, source: int) -> Shapes:
    yield f"{name}.weight", (out, source)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def clip_g(vocabulary: int) -> Shapes:
    """CLIP-G's names and shapes in OpenCLIP's layout."""
    width = CLIP_WIDTH
    yield "token_embedding.weight", (vocabulary, width)
    yield "positional_embedding", (77, width)
    for index in range(CLIP_LAYERS):
        block = f"transformer.resblocks.{index}"
        yield from _norm(f"{block}.ln_1", width)
        yield from _norm(f"{block}.ln_2", width)
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _linear(f"{block}.attn.out_proj", width, width)
        yield from _linear(f"{block}.mlp.c_fc", 4 * width, width)
        yield from _linear(f"{block}.mlp.c_proj", width, 4 * width)
    yield from _norm("ln_final", width)
    yield "text_projection", (width, POOLED)


def adapter() -> Shapes:
    """InstantID's adapter with flat names."""
    width = RESAMPLER
    yield "image_proj.latents", (1, TOKENS, width)
    yield from _linear("image_proj.proj_in", width, EMBEDDING)
    yield from _linear("image_proj.proj_out", CONTEXT, width)
    yield from _norm("image_proj.norm_out", CONTEXT)
    for index in range(4):
        layer = f"image_proj.layers.{index}"
        for norm in ("0.norm1", "0.norm2", "1.0"):
            yield from _norm(f"{layer}.{norm}", width)
        for name, out, source in (
            ("0.to_q", 1, 1),
            ("0.to_kv", 2, 1),
            ("0.to_out", 1, 1),
            ("1.1", 4, 1),
            ("1.3", 1, 4),
        ):
            yield f"{layer}.{name}.weight", (out * width, source * width)
    for position, key in enumerate(LAYERS):
        narrow = (key.block == "input" and key.number < 7) or (key.block == "output" and key.number > 2)
        for part in "kv":
            yield f"ip_adapter.{adapter_name(position, part)}", (_WIDTHS[1 if narrow else 2], CONTEXT)


def control_net() -> Shapes:
    """InstantID's ControlNet in diffusers' layout."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    from .sdxl import shared_config

    with torch.device("meta"):
        module = ControlNetModel(
            **shared_config(_WIDTHS, CONTEXT, ADDED),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        )
    return shapes(module)


def shapes(module: nn.Module) -> Shapes:
    """The names and shapes of a network's weights; it may be on the meta device."""
    return [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]


def checkpoint_values(vocabulary: int) -> Tensors:
    """A whole SDXL checkpoint, float16."""
    shape = ClipShape(vocabulary, 77, CLIP_WIDTH, 4 * CLIP_WIDTH, CLIP_LAYERS, heads=1, end=vocabulary - 1)
    with torch.device("meta"):
        clip_l = ClipText(shape)
        vae = Autoencoder(VaeShape(_VAE_WIDTHS, blocks=1, latent=LATENT, quant=True, post_quant=True))
    parts = {
        "model.diffusion_model.": _unet_values(),
        "conditioner.embedders.0.transformer.": _values(shapes(clip_l)),
        "conditioner.embedders.1.model.": _values(clip_g(vocabulary)),
        "first_stage_model.": _vae_values(shapes(vae)),
    }
    return {prefix + name: tensor.half() for prefix, part in parts.items() for name, tensor in part.items()}


def adapter_values() -> Tensors:
    """The adapter, float16."""
    return {name: tensor.half() for name, tensor in _values(adapter()).items()}


def control_net_values() -> Tensors:
    """The ControlNet, float16."""
    values = _values(control_net())
    for name, tensor in values.items():
        if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")):
            tensor *= 0.3
    return {name: tensor.half() for name, tensor in values.items()}


def _unet_values() -> Tensors:
    """Random, with a straight way for the latent from the first convolution over the last skip to the end.

    ``silu(a) - silu(-a) = a``: eight channels carry the latent and its negative past the last activation.
    """
    values = _values(unet())
    sign = torch.cat((torch.eye(LATENT), -torch.eye(LATENT)))
    straight = 2 * LATENT
    entry = values["input_blocks.0.0.weight"]
    entry[:straight] = 0
    entry[:straight, :, 1, 1] = sign
    skip = values["output_blocks.8.0.skip_connection.weight"]
    skip[:straight] = 0
    skip[:straight, CHANNELS : CHANNELS + straight, 0, 0] = torch.eye(straight)
    values["output_blocks.8.0.out_layers.3.weight"][:straight] = 0
    exit_ = values["out.2.weight"]
    exit_ *= 0.3
    rough = -torch.outer(_BLUR, _BLUR)
    rough[1, 1] += 1.3
    exit_[:, :straight] = sign.T[..., None, None] * rough
    return values


def _vae_values(vae: Shapes) -> Tensors:
    """A VAE whose latents are the coarse colours: nothing but averaging, copying and smoothing."""
    values = {n: torch.ones(s) if "norm" in n and n.endswith("weight") else torch.zeros(s) for n, s in vae}
    for name, tensor in values.items():
        if name.endswith("nin_shortcut.weight"):
            _copy(tensor)
        elif name.endswith("downsample.conv.weight"):
            tensor[:, :, :2, :2] = torch.eye(len(tensor))[..., None, None] / 4
        elif name.endswith("upsample.conv.weight"):
            tensor[:] = torch.eye(len(tensor))[..., None, None] * torch.outer(_BLUR, _BLUR)
        elif name.endswith("quant_conv.weight"):
            _copy(tensor)
    # Four channels hold a colour, its negative, and a constant of either sign: the constants rule their group's
    # statistics, so that the normalisation before the last activation is all but linear.
    constant = 16.0
    for channel in range(3):
        group = 4 * channel
        values["encoder.conv_in.weight"][group : group + 2, channel, 1, 1] = torch.tensor([1.0, -1.0])
        values["encoder.mid.block_2.conv2.bias"][group + 2 : group + 4] = torch.tensor([constant, -constant])
        values["encoder.norm_out.weight"][group : group + 2] = constant / math.sqrt(2)
        values["encoder.conv_out.weight"][channel, group : group + 2, 1, 1] = _VAE_GAIN * torch.tensor([1.0, -1.0])
        values["decoder.conv_in.weight"][group : group + 2, channel, 1, 1] = torch.tensor([1.0, -1.0])
        values["decoder.conv_out.weight"][channel, group : group + 2, 1, 1] = torch.tensor([0.5, -0.5])
    return values


def _copy(tensor: torch.Tensor) -> None:
    """A 1x1 convolution that copies the channels which both sides have."""
    for index in range(min(tensor.shape[:2])):
        tensor[index, index] = 1


def _values(named: Shapes) -> Tensors:
    return {name: _value(name, shape) for name, shape in named}


def _value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal noise of deviation 1 / sqrt(inputs) for matrices, zeros for biases, ones for norms; seeded by the name."""
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    fan_in = math.prod(shape[1:]) if name != "text_projection" else shape[0]
    scale = 1.0 if "token_embedding" in name or name.endswith("latents") else fan_in**-0.5
    if "position_embedding" in name:
        scale = 0.1
    return torch.randn(shape, generator=generator) * scale
