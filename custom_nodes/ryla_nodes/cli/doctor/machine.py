"""GPU memory and disk, against what each workflow needs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...models.catalogue import Catalogue
from ..models.context import Context
from .finding import Finding, ok, warning

_WORKING_SPACE = 3 << 30  # Latents, activations and the VAE at 1024 x 1024, beside the largest model.
_GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One GPU; ``memory`` in bytes."""

    name: str
    memory: int


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs of this machine; none when nvidia-smi is not there or fails."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 1) for line in done.stdout.strip().splitlines() if "," in line]
    return [Gpu(name.strip(), int(memory) << 20) for name, memory in rows if memory.strip().isdigit()]


def need(ids: Sequence[str], catalogue: Catalogue) -> int:
    """Bytes of GPU memory that a workflow wants: its largest model and room to work; ComfyUI moves the rest out."""
    return max((catalogue.get(model_id).size or 0 for model_id in ids), default=0) + _WORKING_SPACE


def check_gpu(found: Sequence[Gpu], workflows: Mapping[str, Sequence[str]], catalogue: Catalogue) -> Iterator[Finding]:
    """The best GPU against the need of each workflow."""
    if not found:
        yield warning(
            "gpu", "No NVIDIA GPU was found; a picture takes minutes to hours on a CPU.", "ryla run --server URL"
        )
        return
    best = max(found, key=lambda gpu: gpu.memory)
    yield ok("gpu", f"{best.name}, {best.memory / _GIB:.0f} GiB")
    for name, ids in workflows.items():
        wanted = need(ids, catalogue)
        if best.memory < wanted:
            text = f"{name} runs best with {wanted / _GIB:.0f} GiB; {best.name} has {best.memory / _GIB:.0f} GiB."
            yield warning("gpu memory", text, f"ryla models install {name} --precision fp8")


def check_disk(ctx: Context, missing: int) -> Iterator[Finding]:
    """Free space where models go, against what is still missing (bytes)."""
    root = ctx.target.root
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / 1e9:.0f} GB free on {existing}, {missing / 1e9:.0f} GB of models are missing."
    yield (
        ok("disk", text)
        if free > missing
        else warning("disk", text, "Free space, or: ryla models install --precision fp8")
    )
