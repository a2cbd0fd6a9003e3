"""Weights of FLUX.1 Dev's true names, shapes and precisions, filled with noise on the GPU: 34 GB, about 40 s.

    python benchmarks/flux_weights.py /path/to/ComfyUI /path/to/models

The pictures that they give are noise; the time they take is real.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    comfyui, models = map(Path, sys.argv[1:])
    sys.argv = sys.argv[:1]
    sys.path[:0] = [str(comfyui), str(REPO / "tests")]
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
    _save(models / "vae/ae.safetensors", ae, torch.float32)
    _save(models / "text_encoders/clip_l.safetensors", _shapes(clip_l), half)
    _save(models / "text_encoders/t5xxl_fp16.safetensors", _shapes(t5xxl), half)
    _save(models / "diffusion_models/flux1-dev.safetensors", true_width.shapes(19, 38), torch.bfloat16)


def _shapes(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _save(path: Path, shapes: dict[str, tuple[int, ...]], dtype: Any) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator("cuda").manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) <= 1 and name.endswith(("scale", "weight")):
            tensors[name] = torch.ones(shape, dtype=dtype)
        elif name.endswith("bias"):
            tensors[name] = torch.zeros(shape, dtype=dtype)
        else:
            noise = torch.randn(shape, generator=generator, device="cuda")
            tensors[name] = noise.mul_(0.7 / max(1, noise[0].numel()) ** 0.5).to(dtype).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
