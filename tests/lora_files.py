"""Small LoRA files with the key names that real trainers write, for the tests of every part that reads LoRAs.

Widths are the real models' (so that families are told apart as in life), ranks and block counts are small.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Layer = tuple[str, int, int]  # module path with dots, out_features, in_features
Tensors = dict[str, np.ndarray]

CLIP_L = [
    (f"text_model.encoder.layers.{n}.{layer}", 768, 768)
    for n in (0, 1)
    for layer in ("self_attn.q_proj", "self_attn.v_proj")
]
CLIP_G = [(name, 1280, 1280) for name, _, _ in CLIP_L]
T5 = [("encoder.block.0.layer.0.SelfAttention.q", 4096, 4096)]
AI_TOOLKIT = {
    "format": "pt",
    "software": json.dumps({"name": "ai-toolkit", "repo": "https://github.com/ostris/ai-toolkit", "version": "0.7.1"}),
    "version": "1.0",
    "training_info": json.dumps({"step": 1500, "epoch": 74}),
    "ss_base_model_version": "flux1",
    "ss_output_name": "anna",
    "ss_tag_frequency": json.dumps({"1_ohwx": {"ohwx": 1}}),
    "name": "anna",
}
KOHYA_FLUX = {
    "ss_network_module": "networks.lora_flux",
    "ss_network_dim": "2",
    "ss_network_alpha": "1.0",
    "ss_base_model_version": "flux1",
    "ss_sd_model_name": "flux1-dev.safetensors",
    "ss_tag_frequency": json.dumps({"10_ohwx woman": {"ohwx woman": 12, "red hair": 3}}),
    "ss_dataset_dirs": json.dumps({"10_ohwx woman": {"n_repeats": 10, "img_count": 12}}),
    "modelspec.architecture": "flux-1-dev/lora",
    "modelspec.implementation": "https://github.com/black-forest-labs/flux",
}


def flux(width: int = 3072, blocks: int = 1) -> list[Layer]:
    """FLUX.1's layers in the original names; ``blocks`` double and as many single ones."""
    layers: list[Layer] = []
    for n in range(blocks):
        for side in ("img", "txt"):
            layers += [
                (f"double_blocks.{n}.{side}_attn.qkv", 3 * width, width),
                (f"double_blocks.{n}.{side}_attn.proj", width, width),
                (f"double_blocks.{n}.{side}_mlp.0", 4 * width, width),
                (f"double_blocks.{n}.{side}_mod.lin", 6 * width, width),
            ]
        layers += [
            (f"single_blocks.{n}.linear1", 7 * width, width),
            (f"single_blocks.{n}.linear2", width, 5 * width),
            (f"single_blocks.{n}.modulation.lin", 3 * width, width),
        ]
    return layers


def flux_diffusers(width: int = 3072, double: Iterable[int] = (0,), single: Iterable[int] = (0,)) -> list[Layer]:
    """FLUX.1's layers in diffusers' names."""
    layers: list[Layer] = []
    for n in double:
        names = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        layers += [(f"transformer_blocks.{n}.attn.{name}", width, width) for name in names]
        layers += [(f"transformer_blocks.{n}.norm1.linear", 6 * width, width)]
        layers += [(f"transformer_blocks.{n}.{side}.net.0.proj", 4 * width, width) for side in ("ff", "ff_context")]
    for n in single:
        layers += [(f"single_transformer_blocks.{n}.attn.{name}", width, width) for name in ("to_q", "to_k", "to_v")]
        layers += [(f"single_transformer_blocks.{n}.proj_mlp", 4 * width, width)]
        layers += [(f"single_transformer_blocks.{n}.proj_out", width, 5 * width)]
    return layers


def unet(context: int, blocks: Mapping[str, int]) -> list[Layer]:
    """A Stable Diffusion U-Net's attention layers; ``blocks`` maps an attention's path to its transformer blocks."""
    layers: list[Layer] = []
    for path, count in blocks.items():
        for n in range(count):
            for attention, text in (("attn1", 640), ("attn2", context)):
                layers += [(f"{path}.transformer_blocks.{n}.{attention}.{to}", 640, text) for to in ("to_k", "to_v")]
                layers += [(f"{path}.transformer_blocks.{n}.{attention}.to_q", 640, 640)]
    return layers


SDXL = unet(2048, {"down_blocks.1.attentions.0": 2, "mid_block.attentions.0": 3})
SDXL_ORIGINAL = unet(2048, {"input_blocks.4.1": 2, "middle_block.1": 3})
SD15 = unet(768, {"down_blocks.0.attentions.0": 1, "mid_block.attentions.0": 1})
SD15_ORIGINAL = unet(768, {"input_blocks.1.1": 1, "middle_block.1": 1})
SD2 = unet(1024, {"down_blocks.0.attentions.0": 1})


def wan(blocks: Iterable[int] = (0,)) -> list[Layer]:
    attention = [f"{kind}.{to}" for kind in ("self_attn", "cross_attn") for to in ("q", "k", "v", "o")]
    return [(f"blocks.{n}.{name}", 1536, 1536) for n in blocks for name in (*attention, "ffn.0", "ffn.2")]


WAN_DIFFUSERS = [(f"blocks.0.{name}", 1536, 1536) for name in ("attn1.to_q", "attn2.to_k", "ffn.net.0.proj")]
QWEN_ATTENTION = [(f"transformer_blocks.{n}.attn.{to}", 3072, 3072) for n in (0, 59) for to in ("to_q", "add_k_proj")]
QWEN = [
    *QWEN_ATTENTION,
    ("transformer_blocks.0.img_mlp.net.0.proj", 12288, 3072),
    ("transformer_blocks.0.txt_mod.1", 18432, 3072),
]
Z_IMAGE = [(f"layers.0.{name}", 3840, 3840) for name in ("attention.to_q", "attention.to_out.0", "feed_forward.w1")]
Z_IMAGE_ORIGINAL = [("layers.0.attention.qkv", 11520, 3840), ("noise_refiner.0.adaLN_modulation.0", 15360, 256)]
LUMINA2 = [("layers.0.attention.qkv", 4608, 2304), ("layers.0.feed_forward.w1", 9216, 2304)]
SD3 = [
    (f"transformer_blocks.{n}.attn.{to}", 1536, 1536) for n in (0, 23) for to in ("to_q", "add_q_proj", "to_add_out")
]
SD3_ORIGINAL = [("joint_blocks.0.x_block.attn.qkv", 4608, 1536), ("joint_blocks.0.context_block.attn.proj", 1536, 1536)]
HUNYUAN = [
    ("double_blocks.0.img_attn_qkv", 9216, 3072),
    ("double_blocks.0.img_mlp.fc1", 12288, 3072),
    ("single_blocks.39.linear1", 21504, 3072),
]
FLUX2 = [("double_blocks.0.img_attn.qkv", 18432, 6144), ("single_blocks.47.linear1", 55296, 6144)]
FLUX2_KLEIN = [("double_blocks.0.img_mlp.0", 18432, 3072), ("single_blocks.0.linear1", 27648, 3072)]
CHROMA = [*flux(), ("distilled_guidance_layer.layers.0.in_layer", 5120, 5120)]


def random(shape: tuple[int, ...], seed: int, std: float = 0.02) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * std).astype(np.float32)


def low_rank(
    layers: Iterable[Layer],
    prefix: str,
    down: str = ".lora_down.weight",
    up: str = ".lora_up.weight",
    *,
    rank: int = 2,
    alpha: float | None = None,
    flat: bool = False,
    std: float = 0.0,
) -> Tensors:
    """``prefix + module + down`` and ``+ up``, and ``.alpha`` when given; ``flat`` writes "_" for "." as kohya does."""
    tensors: Tensors = {}
    for number, (path, out, into) in enumerate(layers):
        name = prefix + (path.replace(".", "_") if flat else path)
        tensors[name + down] = random((rank, into), 2 * number, std) if std else np.zeros((rank, into), np.float16)
        tensors[name + up] = random((out, rank), 2 * number + 1, std) if std else np.zeros((out, rank), np.float16)
        if alpha is not None:
            tensors[name + ".alpha"] = np.array(alpha, np.float32)
    return tensors


def kohya(
    layers: Iterable[Layer], prefix: str = "lora_unet_", *, rank: int = 2, alpha: float = 1.0, std: float = 0.0
) -> Tensors:
    return low_rank(layers, prefix, rank=rank, alpha=alpha, flat=True, std=std)


def peft(layers: Iterable[Layer], prefix: str = "transformer.", *, rank: int = 2, std: float = 0.0) -> Tensors:
    return low_rank(layers, prefix, ".lora_A.weight", ".lora_B.weight", rank=rank, std=std)


def lycoris(kind: str, layers: Iterable[Layer], prefix: str = "lora_unet_", *, std: float = 0.0) -> Tensors:
    """One of LyCORIS' kinds: loha, lokr, dora, full, ia3, oft, glora, norm; alpha is 0, or 2 with a ``std``."""
    tensors: Tensors = {}
    for path, out, into in layers:
        name = prefix + path.replace(".", "_")
        shapes: dict[str, dict[str, tuple[int, ...]]] = {
            "loha": {
                "hada_w1_a": (out, 4),
                "hada_w1_b": (4, into),
                "hada_w2_a": (out, 4),
                "hada_w2_b": (4, into),
                "alpha": (),
            },
            "lokr": {"lokr_w1": (4, 4), "lokr_w2_a": (out // 4, 8), "lokr_w2_b": (8, into // 4), "alpha": ()},
            "dora": {"lora_down.weight": (4, into), "lora_up.weight": (out, 4), "alpha": (), "dora_scale": (out, 1)},
            "full": {"diff": (out, into), "diff_b": (out,)},
            "ia3": {"weight": (out,), "on_input": ()},
            "oft": {"oft_blocks": (4, 16, 16), "alpha": ()},
            "glora": {
                "a1.weight": (4, into),
                "a2.weight": (into, 4),
                "b1.weight": (4, into),
                "b2.weight": (out, 4),
                "alpha": (),
            },
            "norm": {"w_norm": (out,), "b_norm": (out,)},
        }
        for role, shape in shapes[kind].items():
            key = f"{name}.{role}"
            value = random(shape, len(tensors), std) if shape else np.array(2 if std else 0, np.float32)
            tensors[key] = value if std else np.zeros(shape, np.float16)
    return tensors


def control() -> Tensors:
    """Black Forest Labs' Canny/Depth LoRA: bare names, biases, norm scales, a widened ``img_in``."""
    layers = [*flux(), ("img_in", 3072, 128), ("time_in.in_layer", 3072, 256)]
    tensors = peft(layers, "")
    tensors |= {f"{path}.lora_B.bias": np.zeros(out, np.float16) for path, out, _ in layers}
    return tensors | {f"single_blocks.0.norm.{norm}_norm.scale": np.ones(128, np.float16) for norm in ("key", "query")}


def xlabs() -> Tensors:
    """XLabs' own names: ``double_blocks.0.processor.qkv_lora1.down.weight``."""
    double = [
        (f"double_blocks.0.processor.{part}_lora{side}", 9216 if part == "qkv" else 3072, 3072)
        for part in ("qkv", "proj")
        for side in (1, 2)
    ]
    single = [("single_blocks.0.processor.qkv_lora", 9216, 3072), ("single_blocks.0.processor.proj_lora", 3072, 3072)]
    return low_rank([*double, *single], "", ".down.weight", ".up.weight")


def locon() -> Tensors:
    """Kohya keys with convolutions (LoCon) beside the attention layers of SD 1.5."""
    name = "lora_unet_down_blocks_0_resnets_0_conv1"
    convolution = {
        f"{name}.lora_down.weight": np.zeros((4, 320, 3, 3), np.float16),
        f"{name}.lora_up.weight": np.zeros((320, 4, 1, 1), np.float16),
        f"{name}.alpha": np.array(1.0, np.float32),
    }
    return kohya(SD15) | convolution


def processor() -> Tensors:
    """diffusers' first format: ``unet....attn1.processor.to_q_lora.down.weight``."""
    layers = [(path.replace(".to_", ".processor.to_"), out, into) for path, out, into in SD15]
    return low_rank(layers, "unet.", "_lora.down.weight", "_lora.up.weight")


@dataclass(frozen=True)
class Example:
    """One file and what its inspection has to say; ``rank`` None for files without a low-rank product."""

    family: str
    format: str
    tensors: Tensors
    metadata: Mapping[str, str] = field(default_factory=dict)
    algorithms: tuple[str, ...] = ("lora",)
    rank: tuple[int, int] | None = (2, 2)
    components: tuple[str, ...] = ("model",)
    trigger_word: str | None = None
    tool: str | None = None


def examples() -> dict[str, Example]:
    """Every format and family, by a name that says which."""
    te1, te2 = kohya(CLIP_L, "lora_te1_"), kohya(CLIP_G, "lora_te2_")
    encoders = ("model", "clip_l")
    adapter = {"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 4})}
    return {
        "flux kohya": Example(
            "flux", "kohya", kohya(flux()), KOHYA_FLUX, trigger_word="ohwx woman", tool="kohya sd-scripts"
        ),
        "flux kohya with CLIP-L": Example("flux", "kohya", kohya(flux()) | te1, components=encoders),
        "flux kohya with CLIP-L and T5": Example(
            "flux", "kohya", kohya(flux()) | te1 | kohya(T5, "lora_te2_"), components=("model", "clip_l", "t5xxl")
        ),
        "flux diffusers": Example("flux", "diffusers", peft(flux_diffusers()), adapter, tool="diffusers"),
        "flux diffusers with CLIP-L": Example(
            "flux", "diffusers", peft(flux_diffusers()) | peft(CLIP_L, "text_encoder."), components=encoders
        ),
        "flux diffusers, double blocks only": Example("flux", "diffusers", peft(flux_diffusers(single=()))),
        "flux ai-toolkit": Example(
            "flux",
            "ai-toolkit",
            peft(flux_diffusers(single=(0, 37))),
            AI_TOOLKIT,
            trigger_word="ohwx",
            tool="ai-toolkit",
        ),
        "flux comfyui": Example("flux", "comfyui", peft(flux(), "diffusion_model.")),
        "flux comfyui with text encoders": Example(
            "flux",
            "comfyui",
            peft(flux(), "diffusion_model.") | peft(CLIP_L, "text_encoders.clip_l.transformer."),
            components=encoders,
        ),
        "flux peft": Example("flux", "peft", peft(flux_diffusers(), "base_model.model.")),
        "flux bare peft, named adapter": Example(
            "flux", "peft", low_rank(flux_diffusers(), "", ".lora_A.default.weight", ".lora_B.default.weight")
        ),
        "flux control": Example("flux", "bfl-control", control()),
        "flux xlabs": Example("flux", "xlabs", xlabs()),
        "flux onetrainer": Example(
            "flux",
            "onetrainer",
            kohya(flux_diffusers(), "lora_transformer_") | te1,
            {"ot_branch": "master", "ot_revision": "abc"},
            components=encoders,
            tool="OneTrainer",
        ),
        "flux simpletuner lokr": Example(
            "flux", "simpletuner", lycoris("lokr", flux_diffusers(), "lycoris_"), algorithms=("lokr",), rank=(8, 8)
        ),
        "flux loha": Example("flux", "kohya", lycoris("loha", flux()), algorithms=("loha",), rank=(4, 4)),
        "flux lokr": Example("flux", "kohya", lycoris("lokr", flux()), algorithms=("lokr",), rank=(8, 8)),
        "flux dora": Example("flux", "kohya", lycoris("dora", flux()), algorithms=("dora", "lora"), rank=(4, 4)),
        "flux full": Example("flux", "kohya", lycoris("full", flux(256)), algorithms=("full",), rank=None),
        "flux oft": Example("flux", "kohya", lycoris("oft", flux()), algorithms=("oft",), rank=None),
        "flux glora": Example("flux", "kohya", lycoris("glora", flux()), algorithms=("glora",), rank=(4, 4)),
        "flux ia3": Example("flux", "kohya", lycoris("ia3", flux()), algorithms=("ia3",), rank=None),
        "flux mixed ranks": Example(
            "flux", "kohya", kohya(flux()[:4], rank=4) | kohya(flux()[4:], rank=16), rank=(4, 16)
        ),
        "flux small": Example("flux", "kohya", kohya(flux(256))),
        "flux small diffusers": Example("flux", "diffusers", peft(flux_diffusers(256))),
        "flux2 comfyui": Example("flux2", "comfyui", peft(FLUX2, "diffusion_model.")),
        "flux2 klein": Example("flux2", "comfyui", peft(FLUX2_KLEIN, "diffusion_model.")),
        "chroma": Example("chroma", "kohya", kohya(CHROMA)),
        "sdxl kohya": Example(
            "sdxl",
            "kohya",
            kohya(SDXL) | te1 | te2,
            {
                "ss_network_module": "networks.lora",
                "ss_base_model_version": "sdxl_base_v1-0",
                "modelspec.trigger_phrase": "ohwx",
            },
            components=("model", "clip_l", "clip_g"),
            trigger_word="ohwx",
            tool="kohya sd-scripts",
        ),
        "sdxl original names": Example("sdxl", "kohya", kohya(SDXL_ORIGINAL)),
        "sdxl diffusers": Example("sdxl", "diffusers", low_rank(SDXL, "unet.", ".lora.down.weight", ".lora.up.weight")),
        "sdxl diffusers linear": Example(
            "sdxl",
            "diffusers",
            low_rank(SDXL, "unet.", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        ),
        "sdxl lycoris": Example(
            "sdxl",
            "kohya",
            lycoris("loha", SDXL),
            {"ss_network_module": "lycoris.kohya"},
            algorithms=("loha",),
            rank=(4, 4),
            tool="LyCORIS",
        ),
        "sdxl text encoders only": Example("sdxl", "kohya", te1 | te2, components=("clip_l", "clip_g")),
        "sd15 kohya": Example("sd15", "kohya", kohya(SD15) | kohya(CLIP_L, "lora_te_"), components=encoders),
        "sd15 original names": Example("sd15", "kohya", kohya(SD15_ORIGINAL)),
        "sd15 locon": Example("sd15", "kohya", locon(), algorithms=("locon", "lora"), rank=(2, 4)),
        "sd15 processor": Example("sd15", "diffusers", processor()),
        "sd2 kohya": Example("sd2", "kohya", kohya(SD2)),
        "sd3 diffusers": Example("sd3", "diffusers", peft(SD3)),
        "sd3 original names": Example("sd3", "kohya", kohya(SD3_ORIGINAL)),
        "wan comfyui": Example("wan", "comfyui", peft(wan(), "diffusion_model.")),
        "wan musubi": Example(
            "wan", "kohya", kohya(wan()), {"ss_network_module": "networks.lora_wan"}, tool="musubi-tuner"
        ),
        "wan fun": Example("wan", "kohya", kohya(wan(), "lora_unet__")),
        "wan diffusers": Example("wan", "diffusers", peft(WAN_DIFFUSERS)),
        "qwen diffusers": Example("qwen-image", "diffusers", peft(QWEN)),
        "qwen attention only": Example("qwen-image", "comfyui", peft(QWEN_ATTENTION, "diffusion_model.")),
        "qwen kohya": Example("qwen-image", "kohya", kohya(QWEN)),
        "qwen bare": Example(
            "qwen-image", "peft", low_rank(QWEN, "", ".lora_A.default.weight", ".lora_B.default.weight")
        ),
        "z-image ai-toolkit": Example(
            "z-image",
            "ai-toolkit",
            peft(Z_IMAGE, "diffusion_model."),
            {**AI_TOOLKIT, "ss_base_model_version": "zimage"},
            trigger_word="ohwx",
            tool="ai-toolkit",
        ),
        "z-image original names": Example("z-image", "kohya", kohya(Z_IMAGE_ORIGINAL)),
        "lumina2": Example("lumina2", "comfyui", peft(LUMINA2, "diffusion_model.")),
        "hunyuan-video": Example("hunyuan-video", "kohya", kohya(HUNYUAN)),
        "clip-l only": Example("unknown", "kohya", te1, components=("clip_l",)),
        "names of no family": Example(
            "unknown", "peft", peft([("model.layers.0.mlp.up_proj", 64, 64)], "base_model.model.")
        ),
    }


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    """Save a file, folders made; returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, dict(metadata) if metadata else None)
    return path


def small(path: Path, trigger: str | None = None) -> Path:
    """The smallest file that inspection takes for a FLUX.1 LoRA."""
    metadata = {"modelspec.trigger_phrase": trigger} if trigger else None
    return write(path, kohya([("double_blocks.0.img_attn.qkv", 24, 8), ("single_blocks.0.linear1", 56, 8)]), metadata)
