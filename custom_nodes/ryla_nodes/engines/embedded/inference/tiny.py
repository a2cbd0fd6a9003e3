"""Small models of made-up weights on disk, for tests of shapes and names: in ComfyUI's folder layout."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import RylaError
from ....models.flux_files import FluxFiles
from ....models.headers import MADE_UP, read_header
from .tokenizers import beside

if TYPE_CHECKING:
    import torch

VERSION = "3"  # Of the design and the values: files of another version are made anew.


def files(models: Path) -> FluxFiles:
    """Where the small models are below ``models``."""
    return FluxFiles(
        transformer=models / "diffusion_models" / "tiny-flux.safetensors",
        clip_l=models / "text_encoders" / "tiny-clip_l.safetensors",
        t5xxl=models / "text_encoders" / "tiny-t5xxl.safetensors",
        vae=models / "vae" / "tiny-ae.safetensors",
    )


def ensure(models: Path) -> FluxFiles:
    """Make the small models that are missing, damaged or of another version; about two seconds, 45 MB.

    The same bytes every time, so that processes which make them at once do no harm.

    Raises:
        RylaError: ``unwritable_home``.
    """
    made = files(models)
    paths = [path for path in (made.transformer, made.clip_l, made.t5xxl, made.vae) if path is not None]
    if not all(is_current(path) for path in paths):
        try:
            _make(made)
        except OSError as error:
            message = f"The small models cannot be written to {models}: {error.strerror or error}."
            raise RylaError("unwritable_home", message, path=models) from error
    return made


def is_current(path: Path) -> bool:
    """Whether ``path`` is a whole small model of this version, with its tokenizer if it needs one."""
    if path.parent.name == "text_encoders" and not beside(path).is_file():
        return False
    try:
        return read_header(path).metadata.get(MADE_UP) == VERSION
    except RylaError:
        return False


def _make(made: FluxFiles) -> None:
    from . import tiny_tokenizers
    from . import tiny_weights as weights

    assert made.clip_l and made.t5xxl and made.vae
    design = weights.TinyDesign()
    clip_tokenizer, t5_tokenizer = tiny_tokenizers.clip_l(), tiny_tokenizers.t5xxl()
    save(made.transformer, weights.transformer_values(design))
    save(made.clip_l, weights.clip_l_values(design, clip_tokenizer.get_vocab_size()))
    save(made.t5xxl, weights.t5xxl_values(design, t5_tokenizer.get_vocab_size()))
    save(made.vae, weights.vae_values(design))
    write(beside(made.clip_l), clip_tokenizer.to_str().encode())
    write(beside(made.t5xxl), t5_tokenizer.to_str().encode())


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a small model in one piece, marked with the version."""
    from safetensors.torch import save as serialized

    write(path, serialized(tensors, metadata={MADE_UP: VERSION}))


def write(path: Path, content: bytes) -> None:
    """Write a file in one piece: under its name it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
