"""Weights for small models of FLUX.1 Dev's design: true key names, made-up values, the same on every machine."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class TinyDesign:
    """The dimensions of the small models. Flux's heads are 128 wide, CLIP's and T5's 64, the VAE's groups 32."""

    hidden: int = 256
    double_blocks: int = 2
    single_blocks: int = 4
    clip_width: int = 128
    clip_layers: int = 2
    t5_width: int = 128
    t5_heads: int = 2
    t5_layers: int = 2
    vae_width: int = 32
    vae_levels: tuple[int, ...] = (1, 2, 4, 4)
    vae_blocks: int = 2


HEAD = 128
SMALL_HEAD = 64
LATENT = 16
TOKEN = 4 * LATENT
CLIP_POSITIONS = 77


def transformer(design: TinyDesign) -> Shapes:
    """BFL's names and shapes."""
    width = design.hidden
    yield from _linear("img_in", width, TOKEN)
    yield from _linear("txt_in", width, design.t5_width)
    for name, source in (("time_in", 256), ("guidance_in", 256), ("vector_in", design.clip_width)):
        yield from _linear(f"{name}.in_layer", width, source)
        yield from _linear(f"{name}.out_layer", width, width)
    for index in range(design.double_blocks):
        for stream in ("img", "txt"):
            yield from _double_stream(f"double_blocks.{index}.{stream}", width)
    for index in range(design.single_blocks):
        block = f"single_blocks.{index}"
        yield from _linear(f"{block}.linear1", 7 * width, width)
        yield from _linear(f"{block}.linear2", width, 5 * width)
        yield from _linear(f"{block}.modulation.lin", 3 * width, width)
        yield from _head_norms(f"{block}.norm")
    yield from _linear("final_layer.adaLN_modulation.1", 2 * width, width)
    yield from _linear("final_layer.linear", TOKEN, width)


def _double_stream(stream: str, width: int) -> Shapes:
    yield from _linear(f"{stream}_attn.qkv", 3 * width, width)
    yield from _linear(f"{stream}_attn.proj", width, width)
    yield from _head_norms(f"{stream}_attn.norm")
    yield from _linear(f"{stream}_mlp.0", 4 * width, width)
    yield from _linear(f"{stream}_mlp.2", width, 4 * width)
    yield from _linear(f"{stream}_mod.lin", 6 * width, width)


def _head_norms(prefix: str) -> Shapes:
    yield f"{prefix}.query_norm.scale", (HEAD,)
    yield f"{prefix}.key_norm.scale", (HEAD,)


def clip_l(design: TinyDesign, vocabulary: int) -> Shapes:
    """CLIP-L's names and shapes."""
    width = design.clip_width
    yield "text_model.embeddings.token_embedding.weight", (vocabulary, width)
    yield "text_model.embeddings.position_embedding.weight", (CLIP_POSITIONS, width)
    for index in range(design.clip_layers):
        layer = f"text_model.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", width, width)
        yield from _linear(f"{layer}.mlp.fc1", 4 * width, width)
        yield from _linear(f"{layer}.mlp.fc2", width, 4 * width)
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _norm(f"{layer}.layer_norm2", width)
    yield from _norm("text_model.final_layer_norm", width)


def t5xxl(design: TinyDesign, vocabulary: int) -> Shapes:
    """T5 v1.1's encoder names and shapes."""
    width, inner = design.t5_width, design.t5_heads * SMALL_HEAD
    yield "shared.weight", (vocabulary, width)
    for index in range(design.t5_layers):
        attention, feed = (f"encoder.block.{index}.layer.{layer}" for layer in (0, 1))
        for name in ("q", "k", "v"):
            yield f"{attention}.SelfAttention.{name}.weight", (inner, width)
        yield f"{attention}.SelfAttention.o.weight", (width, inner)
        yield f"{attention}.layer_norm.weight", (width,)
        for name in ("wi_0", "wi_1"):
            yield f"{feed}.DenseReluDense.{name}.weight", (2 * width, width)
        yield f"{feed}.DenseReluDense.wo.weight", (width, 2 * width)
        yield f"{feed}.layer_norm.weight", (width,)
    yield "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, design.t5_heads)
    yield "encoder.final_layer_norm.weight", (width,)


def vae(design: TinyDesign) -> Shapes:
    """The names and shapes of ``ae.safetensors``."""
    widths = [design.vae_width * factor for factor in design.vae_levels]
    last = len(widths) - 1
    yield from _conv("encoder.conv_in", widths[0], 3)
    for level, width in enumerate(widths):
        source = widths[max(level - 1, 0)]
        for block in range(design.vae_blocks):
            yield from _residual(f"encoder.down.{level}.block.{block}", source if block == 0 else width, width)
        if level < last:
            yield from _conv(f"encoder.down.{level}.downsample.conv", width, width)
    yield from _middle("encoder", widths[-1])
    yield from _conv("encoder.conv_out", 2 * LATENT, widths[-1])
    yield from _conv("decoder.conv_in", widths[-1], LATENT)
    yield from _middle("decoder", widths[-1])
    for level, width in reversed(list(enumerate(widths))):
        source = widths[min(level + 1, last)]
        for block in range(design.vae_blocks + 1):
            yield from _residual(f"decoder.up.{level}.block.{block}", source if block == 0 else width, width)
        if level > 0:
            yield from _conv(f"decoder.up.{level}.upsample.conv", width, width)
    yield from _norm("decoder.norm_out", widths[0])
    yield from _conv("decoder.conv_out", 3, widths[0])


def _middle(part: str, width: int) -> Shapes:
    for block in (1, 2):
        yield from _residual(f"{part}.mid.block_{block}", width, width)
    yield from _norm(f"{part}.mid.attn_1.norm", width)
    for name in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{part}.mid.attn_1.{name}", width, width, size=1)
    if part == "encoder":
        yield from _norm("encoder.norm_out", width)


def _residual(block: str, source: int, width: int) -> Shapes:
    yield from _norm(f"{block}.norm1", source)
    yield from _conv(f"{block}.conv1", width, source)
    yield from _norm(f"{block}.norm2", width)
    yield from _conv(f"{block}.conv2", width, width)
    if source != width:
        yield from _conv(f"{block}.nin_shortcut", width, source, size=1)


def _conv(name: str, out: int, source: int, size: int = 3) -> Shapes:
    yield f"{name}.weight", (out, source, size, size)
    yield f"{name}.bias", (out,)


def _linear(name: str, out: int, source: int) -> Shapes:
    yield f"{name}.weight", (out, source)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def transformer_values(design: TinyDesign) -> dict[str, torch.Tensor]:
    """The transformer's weights, bfloat16: the velocity is the token itself plus what the blocks added.

    So sampling removes most of the noise and leaves what prompt, guidance and neighbouring tokens brought in.
    """
    tensors = _values(transformer(design), _TRANSFORMER_GAINS)
    # Columns of img_in are all but orthogonal: its transpose takes a token back out, as hidden / TOKEN times itself.
    tensors["final_layer.linear.weight"] += tensors["img_in.weight"].T * (TOKEN / design.hidden)
    for name, bias in tensors.items():
        if name.endswith(("qkv.bias", "linear1.bias")):
            # The same direction in queries and keys: near tokens, which RoPE turns alike, attend to each other.
            shared = _noise(name, (design.hidden,))
            bias[: 2 * design.hidden] = torch.cat((shared, shared))
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def clip_l_values(design: TinyDesign, vocabulary: int) -> dict[str, torch.Tensor]:
    """CLIP-L's weights, float16."""
    tensors = _values(clip_l(design, vocabulary), _CLIP_GAINS)
    return {name: tensor.to(torch.float16) for name, tensor in tensors.items()}


def t5xxl_values(design: TinyDesign, vocabulary: int) -> dict[str, torch.Tensor]:
    """T5's weights, float16."""
    tensors = _values(t5xxl(design, vocabulary), _T5_GAINS)
    return {name: tensor.to(torch.float16) for name, tensor in tensors.items()}


def vae_values(design: TinyDesign) -> dict[str, torch.Tensor]:
    """The VAE's weights, float32: its 3x3 convolutions mix channels at random and blur in space."""
    return _values(vae(design), {})


# Deviations by part of a name (the first that occurs counts, 1 for the others), chosen by eye: a picture with contrast
# that the prompt, the guidance and the seed change.
_TRANSFORMER_GAINS = {"vector_in.out_layer": 3.0, "txt_in": 3.0, "final_layer.linear": 0.5}
_CLIP_GAINS = {"position_embedding": 0.1}
_T5_GAINS = {"SelfAttention.q": 0.1}
_BLUR = torch.tensor([0.25, 0.5, 0.25])


def _values(shapes: Shapes, gains: dict[str, float]) -> dict[str, torch.Tensor]:
    """Noise of deviation gain / sqrt(inputs) for matrices, gain for tables; zeros for biases, ones for norms."""
    return {name: _value(name, shape, _gain(name, gains)) for name, shape in shapes}


def _gain(name: str, gains: dict[str, float]) -> float:
    return next((gain for part, gain in gains.items() if part in name), 1.0)


def _value(name: str, shape: tuple[int, ...], gain: float) -> torch.Tensor:
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    is_table = "embedding" in name or "shared" in name or "relative_attention_bias" in name
    matrix = _noise(name, shape[:2]) * (gain if is_table else gain / math.sqrt(shape[1]))
    if len(shape) == 2:
        return matrix
    blur = torch.outer(_BLUR, _BLUR) if shape[-1] == 3 else torch.ones(1, 1)
    return matrix[..., None, None] * blur


def _noise(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    # Seeded by the name: a change elsewhere in the design changes nothing here.
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)
