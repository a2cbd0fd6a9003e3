"""Find the tokenizer of a text encoder: a file beside it, or the real one's where the vocabulary is the real one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import RylaError
from ....models.folders import ModelFolders
from ....models.workspace import enclosing_comfyui
from .prompts import PromptTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CLIP_LENGTH = 77
T5_MIN_LENGTH = 256  # What Flux was trained with.
T5_PAD = 0
_LEGACY_END = 2  # transformers pools such a CLIP at its highest token instead.


@dataclass(frozen=True)
class _Real:
    """The real tokenizer of a kind of encoder, and where a ComfyUI keeps it."""

    vocabulary: int
    in_comfyui: str
    transformers_class: str
    files: tuple[str, ...]

    def is_in(self, folder: Path) -> bool:
        """Whether ``folder`` holds it; transformers makes an empty tokenizer of a folder that does not."""
        return _whole(folder).is_file() or all((folder / name).is_file() for name in self.files)


_REAL = {
    "clip_l": _Real(49408, "comfy/sd1_tokenizer", "CLIPTokenizerFast", ("vocab.json", "merges.txt")),
    "t5xxl": _Real(32128, "comfy/text_encoders/t5_tokenizer", "T5TokenizerFast", ("spiece.model",)),
}


def beside(encoder: Path) -> Path:
    """The name of a tokenizer file that belongs to the text encoder file ``encoder``."""
    return encoder.with_name(f"{encoder.stem}.tokenizer.json")


def clip_l(encoder: Path, vocabulary: int, folders: ModelFolders) -> PromptTokenizer:
    """CLIP-L's: chunks of 77 with start and end, padded with the end token.

    Raises:
        RylaError: ``missing_tokenizer``, ``wrong_tokenizer``.
    """
    tokenizer = _load("clip_l", encoder, vocabulary, folders)
    start, end = _frame(tokenizer, encoder, ("a start", "an end"))
    if end == _LEGACY_END:
        raise _wrong(encoder, f"its end is token {_LEGACY_END}, which transformers takes for an old mistake")
    return PromptTokenizer(_Plain(tokenizer, front=1, back=1), start, end, pad=end, chunk_length=CLIP_LENGTH)


def t5xxl(encoder: Path, vocabulary: int, folders: ModelFolders) -> PromptTokenizer:
    """T5's as Flux uses it: one chunk of at least 256, an end and no start; raises as ``clip_l``."""
    tokenizer = _load("t5xxl", encoder, vocabulary, folders)
    (end,) = _frame(tokenizer, encoder, ("an end",))
    return PromptTokenizer(_Plain(tokenizer, front=0, back=1), None, end, pad=T5_PAD, min_length=T5_MIN_LENGTH)


@dataclass(frozen=True)
class _Plain:
    """Encode without the ``front`` and ``back`` special tokens that the tokenizer adds."""

    tokenizer: Tokenizer
    front: int
    back: int

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids[self.front : len(ids) - self.back]


def _frame(tokenizer: Tokenizer, encoder: Path, parts: tuple[str, ...]) -> list[int]:
    """The special tokens around a prompt."""
    ids: list[int] = tokenizer.encode("").ids
    if len(ids) != len(parts):
        raise _wrong(encoder, f"it puts {len(ids)} tokens around a prompt, not {' and '.join(parts)}")
    return ids


def _wrong(encoder: Path, why: str) -> RylaError:
    return RylaError("wrong_tokenizer", f"The tokenizer of {encoder} does not fit: {why}.", path=encoder)


def _load(kind: str, encoder: Path, vocabulary: int, folders: ModelFolders) -> Tokenizer:
    tokenizer = _find(kind, encoder, vocabulary, folders)
    if tokenizer.get_vocab_size() > vocabulary:
        raise _wrong(encoder, f"it has {tokenizer.get_vocab_size()} tokens, the encoder {vocabulary}")
    return tokenizer


def _find(kind: str, encoder: Path, vocabulary: int, folders: ModelFolders) -> Tokenizer:
    own = beside(encoder)
    if own.is_file():
        return _from_file(own)
    real = _REAL[kind]
    searched = [own]
    if vocabulary == real.vocabulary:
        for folder in _real_folders(kind, folders):
            searched.append(folder)
            if real.is_in(folder):
                return _from_folder(folder, real)
    places = ", ".join(str(path) for path in searched)
    hint = f"ryla models install tokenizer-{kind}" if vocabulary == real.vocabulary else f"put it at {own}"
    raise RylaError(
        "missing_tokenizer",
        f"The tokenizer of {encoder} ({vocabulary} tokens) is missing; looked for {places}.",
        hint=hint,
        searched=[str(path) for path in searched],
    )


def _real_folders(kind: str, folders: ModelFolders) -> Iterator[Path]:
    for root in folders.get("tokenizers"):
        yield root / kind
    owners = dict.fromkeys(enclosing_comfyui(path) for path in folders.get("text_encoders"))
    for comfyui in filter(None, owners):
        yield comfyui / _REAL[kind].in_comfyui


def _whole(folder: Path) -> Path:
    return folder / "tokenizer.json"


def _from_file(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_folder(folder: Path, real: _Real) -> Tokenizer:
    if _whole(folder).is_file():
        return _from_file(_whole(folder))
    import transformers

    try:
        wrapper = getattr(transformers, real.transformers_class).from_pretrained(folder, local_files_only=True)
    except (ImportError, OSError, ValueError) as error:
        raise RylaError("wrong_tokenizer", f"The tokenizer in {folder} cannot be read: {error}", path=folder) from error
    tokenizer: Tokenizer = wrapper.backend_tokenizer
    return tokenizer
