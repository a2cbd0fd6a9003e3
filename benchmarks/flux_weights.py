"""Weights of FLUX.1 Dev's true names, shapes and precisions, filled with noise: 34 GB. No GPU needed.

    python benchmarks/flux_weights.py /path/to/ComfyUI /path/to/models

The pictures that they give are noise; the time they take is real.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from noise_file import save

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    comfyui, models = map(Path, sys.argv[1:])
    sys.argv = sys.argv[:1]
    sys.path[:0] = [str(comfyui), str(REPO / "tests")]
    import comfy.cli_args

    comfy.cli_args.args.cpu = True  # Only shapes are asked for.
    import comfy.clip_model
    import comfy.ops
    import comfy.text_encoders.t5
    import torch
    from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder
    from comfyui import true_width

    layers, half = comfy.ops.disable_weight_init, torch.float16
    vae = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
           "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    t5_config = json.loads((comfyui / "comfy/text_encoders/t5_config_xxl.json").read_text())
    clip_config = json.loads((comfyui / "comfy/sd1_clip_config.json").read_text())
    with torch.device("meta"):
        halves = {"encoder": Encoder(**vae), "decoder": Decoder(**vae)}
        clip_l = comfy.clip_model.CLIPTextModel(clip_config, half, "meta", layers)
        t5xxl = comfy.text_encoders.t5.T5(t5_config, half, "meta", layers)
    ae = {f"{part}.{name}": shape for part, network in halves.items() for name, shape in _shapes(network).items()}
    save(models / "vae/ae.safetensors", ae, torch.float32)
    save(models / "text_encoders/clip_l.safetensors", _shapes(clip_l), half)
    save(models / "text_encoders/t5xxl_fp16.safetensors", _shapes(t5xxl), half)
    save(models / "diffusion_models/flux1-dev.safetensors", true_width.shapes(19, 38), torch.bfloat16)


def _shapes(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


if __name__ == "__main__":
    main()
