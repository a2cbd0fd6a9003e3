"""Another LoRA for each picture: `RYLA_LoraLoader` beside core's LoraLoader in a real ComfyUI, on one GPU.

    python benchmarks/gpu_lora.py --comfyui /path/to/ComfyUI --weights make

Noise weights of FLUX.1 Dev's true shapes and two LoRAs of rank 16 on all layers of its blocks, in turn. Each round is a
ComfyUI of its own. The pictures of all rounds are compared pixel for pixel; the last one of a round has no LoRA again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests"))

import gpu_flux  # noqa: E402
from gpubench import add_picture, models_of, parser_of  # noqa: E402

ORDER = ("", "a", "b", "a", "b", "a", "b", "")


def graph(ours: bool, lora: str, seed: int, size: int, steps: int) -> dict[str, Any]:
    """Text to a PNG, with the loaders of one side."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    if ours:
        model, clip, vae = ["load", 0], ["load", 1], ["load", 2]
        loaders = {"load": node("RYLA_FluxLoader", model="auto", weight_dtype="default", text_encoder="auto")}
        loaders["lora"] = node(
            "RYLA_LoraLoader", model=model, clip=clip, lora_id=lora, strength=1.0, on_missing="error"
        )
        model, clip = ["lora", 0], ["lora", 1]
    else:
        model, clip, vae = ["unet", 0], ["clip", 0], ["vae", 0]
        loaders = {
            "unet": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
            "clip": node(
                "DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp16.safetensors", type="flux"
            ),
            "vae": node("VAELoader", vae_name="ae.safetensors"),
        }
        if lora:
            loaders["lora"] = node("LoraLoaderModelOnly", model=model, lora_name=f"{lora}.safetensors",
                                   strength_model=1.0)  # fmt: skip
            model = ["lora", 0]
    return {
        **loaders,
        "text": node("CLIPTextEncode", text="a lighthouse at dusk", clip=clip),
        "guided": node("FluxGuidance", conditioning=["text", 0], guidance=3.5),
        "latent": node("EmptySD3LatentImage", width=size, height=size, batch_size=1),
        "sample": node("KSampler", model=model, seed=seed, steps=steps, cfg=1.0, sampler_name="euler",
                       scheduler="simple", positive=["guided", 0], negative=["text", 0], latent_image=["latent", 0],
                       denoise=1.0),
        "decode": node("VAEDecode", samples=["sample", 0], vae=vae),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="lora"),
    }  # fmt: skip


def write_loras(folder: Path) -> None:
    """Two LoRAs in kohya's names: rank 16 on every matrix of the blocks, in bfloat16 (about 300 MB each)."""
    import torch
    from comfyui import true_width
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for key, shape in true_width.shapes(19, 38).items():
            module, _, kind = key.rpartition(".")
            if kind == "weight" and len(shape) == 2 and "blocks" in key and "mod" not in key:
                flat = "lora_unet_" + module.replace(".", "_")
                down = torch.randn(16, shape[1], generator=generator) * shape[1] ** -0.5
                up = torch.randn(shape[0], 16, generator=generator) * 0.05
                tensors[f"{flat}.lora_down.weight"] = down.to(torch.bfloat16)
                tensors[f"{flat}.lora_up.weight"] = up.to(torch.bfloat16)
                tensors[f"{flat}.alpha"] = torch.tensor(16.0)
        save_file(tensors, folder / f"{name}.safetensors")
        print(f"{name}.safetensors: {len(tensors) // 3} matrices", flush=True)


def measure(options: argparse.Namespace, models: Path, name: str) -> dict[str, Any]:
    """One ComfyUI; execution seconds and a digest of the pixels of each picture, GPU memory after the last one."""
    from PIL import Image

    base = options.work / f"{name}-{time.monotonic_ns()}"
    engine = gpu_flux.start(options, models, base)
    seconds, digests = [], []
    try:
        for number, lora in enumerate(ORDER):
            entry = gpu_flux.submit(engine, graph("ours" in name, lora, number, options.size, options.steps))
            seconds.append(round(gpu_flux._execution_seconds(entry), 3))
            picture = engine.files(entry["outputs"], "save")[0].read_bytes()
            pixels = Image.open(io.BytesIO(picture)).tobytes()
            digests.append(hashlib.sha256(pixels).hexdigest()[:12])
        device = engine.get("/system_stats")["devices"][0]
        used = (device["vram_total"] - device["vram_free"]) / 1e9
    finally:
        log = engine.log
        engine.stop()
    result = {"name": name, "order": ORDER, "seconds": seconds, "digests": digests, "vram_gb": round(used, 1)}
    print(json.dumps(result), flush=True)
    if "--verbose" in sys.argv:
        print(log[-3000:])
    return result


def main() -> None:
    parser = parser_of(__doc__)
    add_picture(parser)
    parser.add_argument("--rounds", default="core,ours,core,ours")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models = models_of(options)
    write_loras(models / "loras")
    results = [measure(options, models, name) for name in options.rounds.split(",")]
    equal = all(result["digests"] == results[0]["digests"] for result in results)
    print(f"pictures of all rounds, pixel for pixel: {'equal' if equal else 'DIFFERENT'}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
