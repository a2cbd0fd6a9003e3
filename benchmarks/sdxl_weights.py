"""SDXL and InstantID weights of the true names, shapes and precisions, filled with noise: 11 GB. No GPU needed.

    python benchmarks/sdxl_weights.py /path/to/ComfyUI /path/to/models

The pictures that they give are noise; the time they take is real.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flux_weights import _shapes
from noise_file import Shapes, save

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    comfyui, models = map(Path, sys.argv[1:])
    sys.argv = sys.argv[:1]
    sys.path[:0] = [str(comfyui), str(REPO / "custom_nodes")]
    import comfy.cli_args

    comfy.cli_args.args.cpu = True  # Only shapes are asked for.
    import comfy.cldm.cldm
    import comfy.clip_model
    import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
    import comfy.ops
    import comfy.utils
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL

    layers, half = comfy.ops.disable_weight_init, torch.float16
    shared = {"image_size": 32, "in_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
              "channel_mult": [1, 2, 4], "num_head_channels": 64, "transformer_depth": [0, 0, 2, 2, 10, 10],
              "transformer_depth_middle": 10, "context_dim": 2048, "adm_in_channels": 2816, "legacy": False,
              "num_classes": "sequential", "use_linear_in_transformer": True, "use_spatial_transformer": True,
              "dtype": half}  # fmt: skip
    ddconfig = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
                "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    clip_config = json.loads((comfyui / "comfy/sd1_clip_config.json").read_text())
    output_depth = [0, 0, 0, 2, 2, 2, 10, 10, 10]
    with torch.device("meta"):
        unet = openaimodel.UNetModel(**shared, out_channels=4, transformer_depth_output=output_depth, operations=layers)
        control = comfy.cldm.cldm.ControlNet(**shared, hint_channels=3, operations=layers)
        clip_l = comfy.clip_model.CLIPTextModel(clip_config, half, "meta", layers)
        vae = AutoencoderKL(ddconfig=ddconfig, embed_dim=4)
    names = {f"model.diffusion_model.{name}": shape for name, shape in _shapes(unet).items()}
    names |= {
        f"conditioner.embedders.0.transformer.{n}": s for n, s in _shapes(clip_l).items() if "projection" not in n
    }
    names |= {f"conditioner.embedders.1.model.{name}": shape for name, shape in _clip_g()}
    names |= {f"first_stage_model.{name}": shape for name, shape in _shapes(vae).items()}
    save(models / "checkpoints/sd_xl_base_1.0.safetensors", names, half)
    diffusers = comfy.utils.unet_to_diffusers({**shared, "transformer_depth_output": output_depth})
    save(
        models / "controlnet/instantid/diffusion_pytorch_model.safetensors", _renamed(_shapes(control), diffusers), half
    )
    _adapter(models / "instantid/ip-adapter.bin")


def _clip_g() -> Iterator[tuple[str, tuple[int, ...]]]:
    """OpenCLIP bigG's text tower."""
    width = 1280
    yield from {"token_embedding.weight": (49408, width), "positional_embedding": (77, width)}.items()
    yield from {"text_projection": (width, width), "ln_final.weight": (width,), "ln_final.bias": (width,)}.items()
    for index in range(32):
        block = f"transformer.resblocks.{index}"
        linear = {"attn.out_proj": (width, width), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
        for name, shape in {**linear, "ln_1": (width,), "ln_2": (width,)}.items():
            yield f"{block}.{name}.weight", shape
            yield f"{block}.{name}.bias", shape[:1]
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)


def _renamed(shapes: Shapes, diffusers: dict[str, str]) -> Shapes:
    """ComfyUI's ControlNet names to diffusers', the published file's."""
    names = {name: own for name, own in diffusers.items() if not name.startswith("class_embedding")}
    hints = ["conv_in", *(f"blocks.{index}" for index in range(6)), "conv_out"]
    for part in ("weight", "bias"):
        names[f"controlnet_mid_block.{part}"] = f"middle_block_out.0.{part}"
        names |= {f"controlnet_down_blocks.{index}.{part}": f"zero_convs.{index}.0.{part}" for index in range(9)}
        names |= {
            f"controlnet_cond_embedding.{n}.{part}": f"input_hint_block.{2 * i}.{part}" for i, n in enumerate(hints)
        }
    return {name: shapes[own] for name, own in names.items() if own in shapes}


def _adapter(path: Path) -> None:
    import torch
    from ryla_nodes.identity.attention import LAYERS, adapter_name

    width, context, proj = 1280, 2048, {"latents": (1, 16, 1280)}
    for name, out, source in (("proj_in", width, 512), ("proj_out", context, width)):
        proj |= {f"{name}.weight": (out, source), f"{name}.bias": (out,)}
    norms = {"norm_out": context, **{f"layers.{n}.{m}": width for n in range(4) for m in ("0.norm1", "0.norm2", "1.0")}}
    for name, size in norms.items():
        proj |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    for n in range(4):
        sizes = {"0.to_q": (1, 1), "0.to_kv": (2, 1), "0.to_out": (1, 1), "1.1": (4, 1), "1.3": (1, 4)}
        proj |= {f"layers.{n}.{name}.weight": (a * width, b * width) for name, (a, b) in sizes.items()}
    attention = {}
    for position, key in enumerate(LAYERS):
        narrow = (key.block == "input" and key.number < 7) or (key.block == "output" and key.number > 2)
        attention |= {adapter_name(position, part): (640 if narrow else 1280, context) for part in "kv"}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"image_proj": _filled(proj), "ip_adapter": _filled(attention)}, path)
    print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB", flush=True)


def _filled(shapes: dict[str, Any]) -> dict[str, Any]:
    import torch

    def value(name: str, shape: tuple[int, ...]) -> Any:
        if len(shape) == 1:
            return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        return torch.randn(shape) * 0.7 * shape[-1] ** -0.5

    return {name: value(name, shape) for name, shape in shapes.items()}


if __name__ == "__main__":
    main()
