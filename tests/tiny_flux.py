"""Small FLUX.1 models of made-up weights, for tests of shapes and names: true key names, the same on every machine."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from made_up import byte_level, clip_tokenizer, make_once, save, save_tokenizer
from ryla_nodes.engines.embedded.inference.flux_network import Flux, FluxShape
from ryla_nodes.engines.embedded.inference.text_networks import ClipShape, ClipText, T5Encoder, T5Shape
from ryla_nodes.engines.embedded.inference.tokenizers import framed
from ryla_nodes.engines.embedded.inference.vae import Autoencoder, VaeShape
from ryla_nodes.models.flux_files import FluxFiles
from tokenizers import Tokenizer
from torch import nn

Shapes = Iterable[tuple[str, tuple[int, ...]]]
Tensors = dict[str, torch.Tensor]

HIDDEN, WIDTH, LATENT = 256, 128, 16
T5_PAD, T5_END = "<pad>", "</s>"
# Deviations by part of a name (the first that occurs counts, 1 for the others), chosen by eye: a picture with contrast
# that the prompt, the guidance and the seed change.
GAINS = {
    "vector_in.out_layer": 3.0,
    "txt_in": 3.0,
    "final_layer.linear": 0.5,
    "position_embedding": 0.1,
    "SelfAttention.q": 0.1,
}
BLUR = torch.tensor([0.25, 0.5, 0.25])


def files(models: Path) -> FluxFiles:
    """Where the small models are below ``models``."""
    return FluxFiles(
        transformer=models / "diffusion_models" / "tiny-flux.safetensors",
        clip_l=models / "text_encoders" / "tiny-clip_l.safetensors",
        t5xxl=models / "text_encoders" / "tiny-t5xxl.safetensors",
        vae=models / "vae" / "tiny-ae.safetensors",
    )


def ensure(models: Path) -> FluxFiles:
    """Make those that are missing, damaged or of another version; about two seconds, 45 MB."""
    made = files(models)
    paths = [path for path in (made.transformer, made.clip_l, made.t5xxl, made.vae) if path is not None]
    make_once(paths, lambda: _make(made))
    return made


def _make(made: FluxFiles) -> None:
    assert made.clip_l and made.t5xxl and made.vae
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    with torch.device("meta"):
        transformer = Flux(FluxShape(HIDDEN, LATENT, WIDTH, WIDTH, double_blocks=2, single_blocks=4, guidance=True))
        clip_l = ClipText(ClipShape(clip.get_vocab_size(), 77, WIDTH, 4 * WIDTH, layers=2, heads=2, end=257))
        t5xxl = T5Encoder(T5Shape(t5.get_vocab_size(), WIDTH, 2 * WIDTH, layers=2, heads=2, head=64, buckets=32))
        vae = Autoencoder(VaeShape((32, 64, 128, 128), blocks=2, latent=LATENT, quant=False, post_quant=False))
    save(made.transformer, transformer_values(shapes(transformer)))
    save(made.clip_l, _cast(_values(shapes(clip_l)), torch.float16))
    save(made.t5xxl, _cast(_values(shapes(t5xxl)), torch.float16))
    # Its 3x3 convolutions mix channels at random and blur in space.
    save(made.vae, _values(shapes(vae)))
    save_tokenizer(made.clip_l, clip)
    save_tokenizer(made.t5xxl, t5)


def shapes(module: nn.Module) -> Shapes:
    """The names and shapes of a network's weights; it may be on the meta device."""
    return [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]


def t5_tokenizer() -> Tokenizer:
    """Bytes and an end; padding is token 0 and the end token 1 of 258, as in T5's own vocabulary."""
    from tokenizers import normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = byte_level([T5_PAD, T5_END, *alphabet], [T5_PAD, T5_END])
    tokenizer.normalizer = normalizers.NFKC()
    return framed(tokenizer, "$A {}", [T5_END])


def transformer_values(named: Shapes) -> Tensors:
    """The transformer's weights, bfloat16: the velocity is the token itself plus what the blocks added.

    So sampling removes most of the noise and leaves what prompt, guidance and neighbouring tokens brought in.
    """
    tensors = _values(named)
    # Columns of img_in are all but orthogonal: its transpose takes a token back out, as hidden / token times itself.
    into = tensors["img_in.weight"]
    tensors["final_layer.linear.weight"] += into.T * (into.shape[1] / HIDDEN)
    for name, bias in tensors.items():
        if name.endswith(("qkv.bias", "linear1.bias")):
            # The same direction in queries and keys: near tokens, which RoPE turns alike, attend to each other.
            shared = _noise(name, (HIDDEN,))
            bias[: 2 * HIDDEN] = torch.cat((shared, shared))
    return _cast(tensors, torch.bfloat16)


def _cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _values(named: Shapes) -> Tensors:
    """Noise of deviation gain / sqrt(inputs) for matrices, gain for tables; zeros for biases, ones for norms."""
    return {name: _value(name, shape) for name, shape in named}


def _value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
    is_table = "embedding" in name or "shared" in name or "relative_attention_bias" in name
    matrix = _noise(name, shape[:2]) * (gain if is_table else gain / math.sqrt(shape[1]))
    if len(shape) == 2:
        return matrix
    blur = torch.outer(BLUR, BLUR) if shape[-1] == 3 else torch.ones(1, 1)
    return matrix[..., None, None] * blur


def _noise(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    # Seeded by the name: a change elsewhere in the design changes nothing here.
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)
