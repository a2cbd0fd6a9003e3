"""The small SDXL, InstantID and face models on disk: made on first use, in ComfyUI's folder layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import RylaError
from ....files import write_whole
from ....models.headers import MADE_UP, read_header
from ....models.identity_files import IdentityFiles
from .tokenizers import CLIP_FRAME, beside, framed

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

VERSION = "3"  # Of the design and the values: files of another version are made anew.


def files(models: Path) -> IdentityFiles:
    """Where the small models are below ``models``."""
    return IdentityFiles(
        checkpoint=models / "checkpoints" / "tiny-sdxl.safetensors",
        adapter=models / "instantid" / "tiny-ip-adapter.safetensors",
        control_net=models / "controlnet" / "tiny-instantid.safetensors",
        insightface=models / "insightface",
    )


def ensure(models: Path) -> IdentityFiles:
    """Make the small models that are missing, damaged or of another version.

    Raises:
        RylaError: ``unwritable_home``, ``embedded_not_installed`` without diffusers.
    """
    from ....identity import demo_faces

    made = files(models)
    make_once(models, (made.checkpoint, made.adapter, made.control_net), lambda: _make(made))
    make_once(models, (), lambda: demo_faces.ensure_models(made.insightface))
    return made


def make_once(models: Path, paths: Iterable[Path], make: Callable[[], object]) -> None:
    """Call ``make`` unless every one of ``paths`` is a whole small model of this version.

    The same bytes every time, so that processes which make them at once do no harm. Raises ``unwritable_home``, naming
    ``models``.
    """
    if paths and all(is_current(path) for path in paths):
        return
    try:
        make()
    except OSError as error:
        message = f"The small models cannot be written to {models}: {error.strerror or error}."
        raise RylaError("unwritable_home", message, path=models) from error


def is_current(path: Path) -> bool:
    """Whether ``path`` is a whole small model of this version, with its tokenizer if it needs one."""
    if path.parent.name == "text_encoders" and not beside(path).is_file():
        return False
    try:
        return read_header(path).metadata.get(MADE_UP) == VERSION
    except RylaError:
        return False


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a small model, marked with the version."""
    from safetensors.torch import save as serialized

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, serialized(tensors, metadata={MADE_UP: VERSION}))


def save_tokenizer(encoder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer of the text encoder in ``encoder`` beside it."""
    encoder.parent.mkdir(parents=True, exist_ok=True)
    write_whole(beside(encoder), tokenizer.to_str().encode())


def _make(made: IdentityFiles) -> None:
    from . import sdxl
    from . import tiny_sdxl_weights as weights

    sdxl.require()
    tokenizer = clip_tokenizer()
    for part in ("clip_l", "clip_g"):
        save_tokenizer(made.checkpoint.with_name(f"{made.checkpoint.stem}.{part}{made.checkpoint.suffix}"), tokenizer)
    save(made.adapter, weights.adapter_values())
    save(made.control_net, weights.control_net_values())
    save(made.checkpoint, weights.checkpoint_values(tokenizer.get_vocab_size()))


def clip_tokenizer() -> Tokenizer:
    """One token a byte of the lower-cased prompt, between start and end, which are the last two of 258 tokens."""
    from tokenizers import normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = byte_level([*alphabet, *CLIP_FRAME], CLIP_FRAME)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    return framed(tokenizer, "{} $A {}", CLIP_FRAME)


def byte_level(vocabulary: list[str], special: Iterable[str]) -> Tokenizer:
    """A tokenizer of single bytes, whose tokens are numbered as ``vocabulary`` lists them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer
