"""The small SDXL, InstantID and face models on disk: made on first use, in ComfyUI's folder layout."""

from __future__ import annotations

from pathlib import Path

from ....errors import RylaError
from ....models.identity_files import IdentityFiles
from .tiny import is_current, save, write
from .tokenizers import beside


def files(models: Path) -> IdentityFiles:
    """Where the small models are below ``models``."""
    return IdentityFiles(
        checkpoint=models / "checkpoints" / "tiny-sdxl.safetensors",
        adapter=models / "instantid" / "tiny-ip-adapter.safetensors",
        control_net=models / "controlnet" / "tiny-instantid.safetensors",
        insightface=models / "insightface",
    )


def ensure(models: Path) -> IdentityFiles:
    """Make the small models that are missing, damaged or of another version. Raises ``unwritable_home``."""
    made = files(models)
    from ....identity import demo_faces

    weights = all(is_current(path) for path in (made.checkpoint, made.adapter, made.control_net))
    try:
        if not weights:
            _make(made)
        demo_faces.ensure_models(made.insightface)
    except OSError as error:
        message = f"The small models cannot be written to {models}: {error.strerror or error}."
        raise RylaError("unwritable_home", message, path=models) from error
    return made


def _make(made: IdentityFiles) -> None:
    from . import tiny_sdxl_weights as weights
    from . import tiny_tokenizers

    tokenizer = tiny_tokenizers.clip_l()
    for part in ("clip_l", "clip_g"):
        name = made.checkpoint.with_name(f"{made.checkpoint.stem}.{part}{made.checkpoint.suffix}")
        write(beside(name), tokenizer.to_str().encode())
    save(made.adapter, weights.adapter_values())
    save(made.control_net, weights.control_net_values())
    save(made.checkpoint, weights.checkpoint_values(tokenizer.get_vocab_size()))
