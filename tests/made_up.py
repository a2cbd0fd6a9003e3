"""Small models of made-up weights on disk: made on first use, marked, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from ryla_nodes.engines.embedded.inference.tokenizers import CLIP_FRAME, beside, framed
from ryla_nodes.errors import RylaError
from ryla_nodes.files import write_whole
from ryla_nodes.models.headers import MADE_UP, read_header
from safetensors.torch import save as serialized
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

VERSION = "3"  # Of the design and the values: files of another version are made anew.


def make_once(paths: Iterable[Path], make: Callable[[], object]) -> None:
    """Call ``make`` unless every one of ``paths`` is a whole small model of this version."""
    if not all(is_current(path) for path in paths):
        make()


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
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, serialized(tensors, metadata={MADE_UP: VERSION}))


def save_tokenizer(encoder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer of the text encoder in ``encoder`` beside it."""
    encoder.parent.mkdir(parents=True, exist_ok=True)
    write_whole(beside(encoder), tokenizer.to_str().encode())


def clip_tokenizer() -> Tokenizer:
    """One token a byte of the lower-cased prompt, between start and end, which are the last two of 258 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = byte_level([*alphabet, *CLIP_FRAME], CLIP_FRAME)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    return framed(tokenizer, "{} $A {}", CLIP_FRAME)


def byte_level(vocabulary: list[str], special: Iterable[str]) -> Tokenizer:
    """A tokenizer of single bytes, whose tokens are numbered as ``vocabulary`` lists them."""
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer
