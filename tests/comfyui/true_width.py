"""A FLUX.1 transformer of the true names and widths with one block of each kind: a stock ComfyUI runs it on a CPU."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

WIDTH, HEAD, MLP, TEXT, POOLED, PATCH = 3072, 128, 4 * 3072, 4096, 768, 64
Shapes = dict[str, tuple[int, ...]]


def shapes(double_blocks: int = 1, single_blocks: int = 1) -> Shapes:
    """Names and shapes as in flux1-dev.safetensors."""
    layers = {
        "img_in": (WIDTH, PATCH),
        "txt_in": (WIDTH, TEXT),
        "final_layer.linear": (PATCH, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    for name, width in (("time_in", 256), ("guidance_in", 256), ("vector_in", POOLED)):
        layers |= {f"{name}.in_layer": (WIDTH, width), f"{name}.out_layer": (WIDTH, WIDTH)}
    scales: list[str] = []
    for number in range(double_blocks):
        for side in ("img", "txt"):
            block = f"double_blocks.{number}.{side}_"
            layers |= {
                f"{block}mod.lin": (6 * WIDTH, WIDTH),
                f"{block}attn.qkv": (3 * WIDTH, WIDTH),
                f"{block}attn.proj": (WIDTH, WIDTH),
                f"{block}mlp.0": (MLP, WIDTH),
                f"{block}mlp.2": (WIDTH, MLP),
            }
            scales += [f"{block}attn.norm.{part}_norm.scale" for part in ("query", "key")]
    for number in range(single_blocks):
        block = f"single_blocks.{number}."
        layers |= {
            f"{block}modulation.lin": (3 * WIDTH, WIDTH),
            f"{block}linear1": (3 * WIDTH + MLP, WIDTH),
            f"{block}linear2": (WIDTH, WIDTH + MLP),
        }
        scales += [f"{block}norm.{part}_norm.scale" for part in ("query", "key")]
    weights: Shapes = {f"{name}.weight": shape for name, shape in layers.items()}
    biases: Shapes = {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    return {**weights, **biases, **dict.fromkeys(scales, (HEAD,))}


def write(path: Path) -> Path:
    """Save the transformer in bfloat16 (1 GB, a second or two), deterministic and of the size of trained weights."""
    # Noise is slow: a block of it whose length is prime is laid end to end, so that no two rows are alike.
    noise = torch.randn(1_048_573, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    tensors = {}
    for name, shape in shapes().items():
        size = math.prod(shape)
        if name.endswith("scale"):
            tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
        elif name.endswith("bias"):
            tensors[name] = (noise[:size] * 0.02).clone()
        else:
            repeats = -(-size // len(noise))
            tensors[name] = (noise * (0.7 / shape[1] ** 0.5)).repeat(repeats)[:size].reshape(shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path
