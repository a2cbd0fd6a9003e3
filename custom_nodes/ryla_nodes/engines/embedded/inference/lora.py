"""Apply a LoRA to Flux: the names of every common format, the arithmetic of ComfyUI.

``W + strength * (alpha / rank) * up @ down``; alpha counts as rank where a file gives none. LyCORIS' other products are
left to ComfyUI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ....errors import RylaError
from ....loras import check, inspect, weights
from ....loras.check import LoraResult
from ....loras.flux_modules import Target, bfl_modules, targets
from .flux_model import FluxModel
from .flux_network import FluxShape
from .network import Patch
from .sampling import Model
from .text import FluxText

# The endings of an (up, down) pair behind a module's name, in the order in which they are looked for.
_PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
)
_CLIP_MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)

# LyCORIS' kinds (as ``inspect`` names them) that ComfyUI applies and this engine does not.
_COMFYUI_ONLY = {"loha", "lokr", "oft", "glora", "full", "norm", "dora"}

# What a LoRA may call a module -> the weights of the network that it stands for.
Names = Mapping[str, tuple[Target, ...]]


@dataclass
class Matches:
    """What one LoRA patches in one network; ``modules`` of the file were found, by these ``keys`` of it."""

    patches: list[Patch] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    modules: int = 0


def apply(model: Model, clip: FluxText | None, path: Path, strength: float, clip_strength: float) -> LoraResult:
    """Clones of ``model`` and ``clip`` with the LoRA in ``path``; at strength 0 they have the originals' weights.

    Raises:
        RylaError: ``lora_wrong_size`` when the file names this model's layers and fits none of them,
            ``lora_unsupported`` for another model than Flux and a file of other kinds of products only, and what
            ``loras.weights.load`` raises.
    """
    if not isinstance(model, FluxModel):
        raise RylaError(
            "lora_unsupported", f"The embedded engine applies LoRAs to Flux only; this MODEL is {model.family}."
        )
    tensors = weights.load(path)
    transformer = model.transformer
    names = transformer_names(transformer.shape)
    in_model = match(tensors, names, transformer.network.base, strength)
    in_clip = _match_clip(tensors, clip, clip_strength) if clip else (Matches(), Matches())
    matched_clip = sum(part.modules for part in in_clip)
    if not in_model.modules + matched_clip:
        _refuse(path, tensors, names)
    return LoraResult(
        model=model.patched(in_model.patches),
        clip=clip and clip.patched(*(part.patches for part in in_clip)),
        matched_model=in_model.modules,
        matched_clip=matched_clip,
        unmatched=tuple(sorted(tensors.keys() - in_model.keys - in_clip[0].keys - in_clip[1].keys)),
    )


def _match_clip(tensors: Mapping[str, torch.Tensor], clip: FluxText, strength: float) -> tuple[Matches, Matches]:
    clip_l, t5xxl = clip.clip_l.network.base, clip.t5xxl.network.base
    return (
        match(tensors, clip_l_names(clip_l), clip_l, strength),
        match(tensors, t5xxl_names(t5xxl), t5xxl, strength),
    )


def transformer_names(shape: FluxShape) -> Names:
    """The names of the transformer's modules in kohya's, BFL's, diffusers', PEFT's, ai-toolkit's, OneTrainer's and
    SimpleTuner's files."""
    names: dict[str, tuple[Target, ...]] = {}
    for bfl in bfl_modules(shape.double_blocks, shape.single_blocks):
        parts = targets(bfl, shape.hidden)
        names[f"lora_unet_{_flat(bfl)}"] = parts
        names[f"diffusion_model.{bfl}"] = parts
        for part in parts:
            whole = (Target(part.module),)
            names[f"transformer.{part.module}"] = whole
            names[f"lora_transformer_{_flat(part.module)}"] = whole
            names[f"lycoris_{_flat(part.module)}"] = whole
            names[part.module] = whole
    return names


def clip_l_names(module: nn.Module) -> Names:
    """The names of CLIP-L's linear layers."""
    names: dict[str, tuple[Target, ...]] = {}
    for name in _linear(module):
        key = name if name.startswith("text_model.") else f"text_model.{name}"
        if key.startswith("text_model.encoder.layers.") and key.endswith(_CLIP_MODULES):
            target = (Target(name),)
            names[f"lora_te_{_flat(key)}"] = target
            names[f"lora_te1_{_flat(key)}"] = target
            names[f"text_encoder.{key}"] = target
            names[f"text_encoders.clip_l.transformer.{key}"] = target
    return names


def t5xxl_names(module: nn.Module) -> Names:
    """The names of T5's linear layers."""
    names: dict[str, tuple[Target, ...]] = {}
    for name in _linear(module):
        for form in (f"lora_te2_{_flat(name)}", f"lora_te3_{_flat(name)}", f"text_encoders.t5xxl.transformer.{name}"):
            names[form] = (Target(name),)
    return names


def match(tensors: Mapping[str, torch.Tensor], names: Names, module: nn.Module, strength: float) -> Matches:
    """Pair a file's tensors with a network's weights. At strength 0 they are counted and nothing is patched.

    A module whose DoRA scale the arithmetic would have to know, or whose matrices are of another size, is left out.
    """
    found = Matches()
    for name, parts in names.items():
        pair = next(((up, down) for up, down in _PAIRS if name + up in tensors and name + down in tensors), None)
        if pair is None or f"{name}.dora_scale" in tensors:
            continue
        up, down = (tensors[name + ending] for ending in pair)
        alpha = tensors.get(f"{name}.alpha")
        scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
        patches = [Patch(f"{part.module}.weight", part.rows(up), down, strength * scale) for part in parts]
        if not _fits(patches, up, module):
            continue
        found.modules += 1
        found.keys |= {name + ending for ending in pair} | ({f"{name}.alpha"} & tensors.keys())
        found.patches += patches if strength != 0 else []
    return found


def _refuse(path: Path, tensors: Mapping[str, torch.Tensor], names: Names) -> None:
    """Say why nothing matched, where more can be said than that."""
    info = inspect.inspect(path)
    kinds = sorted(_COMFYUI_ONLY & set(info.algorithms))
    if kinds or info.format == "bfl-control":
        what = f"a {info.format} file" + (f" of the kind {'+'.join(kinds)}" if kinds else "")
        line = f"{path.name} is {what}, which ComfyUI applies; the embedded engine applies plain LoRA pairs only."
        raise RylaError("lora_unsupported", line, path=path)
    named = next((name for name in names if any(name + up in tensors for up, _ in _PAIRS)), None)
    if named is not None:
        raise check.wrong_size(path, named)


def _fits(patches: list[Patch], up: torch.Tensor, module: nn.Module) -> bool:
    """Whether ``up`` has the rows of all the weights behind a name, and each of its parts their size."""
    shapes = [tuple(module.get_parameter(patch.parameter).shape) for patch in patches]
    return len(up) == sum(rows for rows, _ in shapes) and all(
        patch.up[0].numel() == len(patch.down) and (len(patch.up), patch.down[0].numel()) == shape
        for patch, shape in zip(patches, shapes, strict=True)
    )


def _linear(module: nn.Module) -> Iterator[str]:
    return (name for name, child in module.named_modules() if isinstance(child, nn.Linear))


def _flat(name: str) -> str:
    return name.replace(".", "_")
