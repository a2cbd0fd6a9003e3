"""FLUX.1's VAE decoding one picture on one GPU, in a ComfyUI's own Python: as it is, and faster. Noise weights will do.

    python benchmarks/vae_step.py /path/to/ComfyUI --vae ae.safetensors [--json FILE] [--size 1024]

Milliseconds of a picture, seconds of the first call, and the picture's PSNR against the first variant. `norms` runs
each group norm and the SiLU after it as one compiled function of all sizes, the convolutions as they are.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("comfyui", type=Path)
parser.add_argument("--vae", type=Path, required=True)
parser.add_argument("--json", type=Path)
parser.add_argument("--size", type=int, default=1024)
parser.add_argument("--whole", action="store_true", help="also the decoder compiled whole (half a minute)")
parser.add_argument("--cpu", action="store_true", help="for a try: a small picture")
options = parser.parse_args()
sys.argv = ["main.py", *(["--cpu"] if options.cpu else [])]
sys.path[:0] = [str(options.comfyui)]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

REPEATS = 2 if options.cpu else 8
FAILURES = (RuntimeError, OSError, AssertionError, TypeError, ValueError, LookupError, AttributeError)


class NormSilu(nn.Module):
    """A group norm and the SiLU after it, as one compiled function."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for dimension in (2, 3):
            torch._dynamo.maybe_mark_dynamic(x, dimension)
        return COMPILED(x, self.norm.weight, self.norm.bias, self.norm.num_groups, self.norm.eps)


def norm_silu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, epsilon: float) -> torch.Tensor:
    """Of ``x`` [B, C, H, W], in float32 within."""
    batch, channels, height, width = x.shape
    wide = x.float().view(batch, groups, channels // groups, height, width)
    variance, mean = torch.var_mean(wide, dim=(2, 3, 4), keepdim=True, correction=0)
    wide = ((wide - mean) * torch.rsqrt(variance + epsilon)).view(batch, channels, height, width)
    wide = wide * weight.float()[:, None, None] + bias.float()[:, None, None]
    return (wide * torch.sigmoid(wide)).to(x.dtype)


COMPILED = torch.compile(norm_silu)


def with_norms(decoder: nn.Module) -> nn.Module:
    """Residual blocks whose norms bring the SiLU along."""
    for block in decoder.modules():
        if hasattr(block, "norm1") and hasattr(block, "swish"):
            block.norm1, block.norm2, block.swish = NormSilu(block.norm1), NormSilu(block.norm2), nn.Identity()
    return decoder


def channels_last(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)


def variants(network: Any) -> dict[str, Callable[[], Any]]:
    """What gives the VAE's network in each way."""

    def norms() -> Any:
        changed = copy.deepcopy(network)
        with_norms(changed.decoder)
        return changed

    def whole() -> Any:
        changed = copy.deepcopy(network)
        changed.decoder = torch.compile(changed.decoder)
        return changed

    found = {
        "as it is": lambda: network,
        "channels_last": lambda: channels_last(copy.deepcopy(network)),
        "norms": norms,
        "norms, channels_last": lambda: channels_last(norms()),
    }
    return {**found, **({"whole": whole} if options.whole else {})}


def wait() -> None:
    if management.get_torch_device().type == "cuda":
        torch.cuda.synchronize()


def seconds(network: Any, latent: torch.Tensor) -> float:
    wait()
    began = time.perf_counter()
    network.decode(latent)
    wait()
    return time.perf_counter() - began


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """In dB, of pictures in -1..1; 99 for equal ones."""
    off = float(((one - other) / 2).pow(2).mean())
    return round(min(99.0, -10 * math.log10(off)), 1) if off else 99.0


def main() -> None:
    rows: list[dict[str, Any]] = []
    weights = comfy.utils.load_torch_file(str(options.vae))
    vae = comfy.sd.VAE(sd=weights)
    management.load_models_gpu([vae.patcher])
    side = (64 if options.cpu else options.size) // 8
    generator = torch.Generator().manual_seed(0)
    reference: Any = None
    for name, make in variants(vae.first_stage_model).items():
        latent = torch.randn(1, 16, side, side, generator=generator.manual_seed(0)).to(vae.device, vae.vae_dtype)
        latent = latent.contiguous(memory_format=torch.channels_last) if "channels_last" in name else latent
        row: dict[str, Any] = {"row": "vae", "name": name, "dtype": str(vae.vae_dtype)}
        try:
            network = make()
            row["first_s"] = round(seconds(network, latent), 2)
            row["ms"] = round(statistics.median(seconds(network, latent) for _ in range(REPEATS)) * 1000, 1)
            picture = network.decode(latent).float().clamp(-1, 1)
            reference = picture if reference is None else reference
            row["psnr_db"] = psnr(picture, reference)
        except FAILURES as failure:  # One of them must not cost the others.
            row["failed"] = repr(failure)[:600]
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))


with torch.inference_mode():
    main()
