"""From a prompt to weighted tokens in ComfyUI's way, and the tokenizer file that belongs to a text encoder.

Prompts: ``(word:1.2)``, nesting, escapes, chunks. Tokenizers: a file beside the encoder, or the real one's where the
vocabulary is the real one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import RylaError
from ....models.folders import ModelFolders
from ....models.workspace import enclosing_comfyui
from ... import embedded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EMPHASIS = 1.1  # What a pair of parentheses without a number multiplies by.
_KEPT_TOGETHER = 8  # A segment of fewer tokens is not broken over two chunks.
_ESCAPES = ((r"\)", "\0\1"), (r"\(", "\0\2"))

WeightedToken = tuple[int, float]
Chunk = list[WeightedToken]


def weighted_segments(prompt: str) -> list[tuple[str, float]]:
    """The prompt's segments with their weights: ``"a (red:1.5) cat"`` -> a 1.0, red 1.5, cat 1.0.

    A number after a colon is the weight itself, whatever is around it; parentheses without one multiply by 1.1;
    ``\\(`` and ``\\)`` are plain characters.
    """
    for plain, stand_in in _ESCAPES:
        prompt = prompt.replace(plain, stand_in)
    segments = []
    for text, weight in _weighted(prompt, 1.0):
        for plain, stand_in in _ESCAPES:
            text = text.replace(stand_in, plain[1])
        segments.append((text, weight))
    return segments


def _weighted(text: str, weight: float) -> list[tuple[str, float]]:
    segments: list[tuple[str, float]] = []
    for part in _top_level(text):
        if len(part) >= 2 and part.startswith("(") and part.endswith(")"):
            segments += _weighted(*_emphasis(part[1:-1], weight))
        else:
            segments.append((part, weight))
    return segments


def _emphasis(inner: str, weight: float) -> tuple[str, float]:
    text, colon, number = inner.rpartition(":")
    if colon and text:
        try:
            return text, float(number)
        except ValueError:
            pass  # A colon of the prompt's own, as in "(ratio 16:9 wide)".
    return inner, weight * EMPHASIS


def _top_level(text: str) -> list[str]:
    """Split at the outermost parentheses, which stay on their parts; what is unbalanced stays as it is."""
    parts: list[str] = []
    current, depth = "", 0
    for character in text:
        opens, depth_before = character == "(", depth
        depth += {"(": 1, ")": -1}.get(character, 0)
        if opens and depth_before == 0:
            parts.append(current)
            current = ""
        current += character
        if character == ")" and depth == 0:
            parts.append(current)
            current = ""
    parts.append(current)
    return [part for part in parts if part]


@dataclass(frozen=True)
class PromptTokenizer:
    """A tokenizer and the frame that its encoder expects around the tokens.

    ``encode`` gives ids without special tokens. A chunk is start (if any), tokens, end, then ``pad`` up to
    ``chunk_length`` (None: one chunk of any length) or at least ``min_length``.
    """

    encode: Callable[[str], list[int]]
    start: int | None
    end: int
    pad: int
    chunk_length: int | None = None
    min_length: int = 0

    def tokenize(self, prompt: str) -> list[Chunk]:
        """One or more chunks of weighted tokens."""
        groups = [
            [(token, weight) for token in self.encode(text)] for text, weight in weighted_segments(prompt) if text
        ]
        chunks: list[Chunk] = [self._opened()]
        for group in groups:
            self._append(chunks, group)
        chunks[-1].append((self.end, 1.0))
        self._pad(chunks[-1], self.chunk_length or self.min_length)
        return chunks

    def empty(self, length: int) -> list[int]:
        """The ids of an empty prompt, ``length`` of them: what weights are measured against."""
        ids = [self.end] if self.start is None else [self.start, self.end]
        return ids + [self.pad] * (length - len(ids))

    def _opened(self) -> Chunk:
        return [] if self.start is None else [(self.start, 1.0)]

    def _append(self, chunks: list[Chunk], group: Chunk) -> None:
        breakable = len(group) >= _KEPT_TOGETHER
        while self.chunk_length is not None and len(group) + len(chunks[-1]) > self.chunk_length - 1:
            space = self.chunk_length - 1 - len(chunks[-1])
            if breakable:
                chunks[-1] += group[:space]
                group = group[space:]
            chunks[-1].append((self.end, 1.0))
            self._pad(chunks[-1], self.chunk_length)
            chunks.append(self._opened())
        chunks[-1] += group

    def _pad(self, chunk: Chunk, length: int) -> None:
        chunk += [(self.pad, 1.0)] * (length - len(chunk))


CLIP_LENGTH = 77
T5_MIN_LENGTH = 256  # What Flux was trained with.
T5_PAD = 0
_LEGACY_END = 2  # transformers pools such a CLIP at its highest token instead.
_WHOLE = "tokenizer.json"
# OpenAI's pattern of a CLIP's words.
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_FRAME = ("<|startoftext|>", "<|endoftext|>")
_T5_SENTINELS = 100  # T5's tokens for gaps, behind the pieces of its model, the last of them first.


@dataclass(frozen=True)
class _Real:
    """The real tokenizer of a kind of encoder: its files, how they are read, and where a ComfyUI keeps it."""

    vocabulary: int
    in_comfyui: str
    files: tuple[str, ...]
    read: Callable[[Path], Tokenizer]

    def is_in(self, folder: Path) -> bool:
        return (folder / _WHOLE).is_file() or all((folder / name).is_file() for name in self.files)


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


def _from_file(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_folder(folder: Path, real: _Real) -> Tokenizer:
    if (folder / _WHOLE).is_file():
        return _from_file(folder / _WHOLE)
    try:
        return real.read(folder)
    except (OSError, ValueError) as error:
        raise RylaError("wrong_tokenizer", f"The tokenizer in {folder} cannot be read: {error}", path=folder) from error


def _openai_clip(folder: Path) -> Tokenizer:
    """CLIP's byte pairs from ``vocab.json`` and ``merges.txt``."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = json.loads((folder / "vocab.json").read_bytes())
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines if line[:8] != "#version")]
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token=CLIP_FRAME[-1], end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    tokenizer.add_special_tokens(list(CLIP_FRAME))
    return framed(tokenizer, "{} $A {}", CLIP_FRAME)


def _google_t5(folder: Path) -> Tokenizer:
    """T5's pieces from ``spiece.model``, and the sentinels, which are no part of it."""
    embedded.require("The tokenizer of T5", "sentencepiece", "google.protobuf")
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    try:
        told = ModelProto.FromString((folder / "spiece.model").read_bytes())
    except DecodeError as error:
        raise ValueError(str(error)) from error
    pieces = [(piece.piece, piece.score) for piece in told.pieces]
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(_T5_SENTINELS))]
    vocabulary = [*pieces, *((sentinel, 0.0) for sentinel in sentinels)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, told.trainer_spec.unk_id))
    tokenizer.normalizer = normalizers.Precompiled(told.normalizer_spec.precompiled_charsmap)
    words = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    special = (told.trainer_spec.pad_id, told.trainer_spec.eos_id, told.trainer_spec.unk_id)
    tokenizer.add_special_tokens([*(pieces[number][0] for number in special), *sentinels])
    return framed(tokenizer, "$A {}", (pieces[told.trainer_spec.eos_id][0],))


def framed(tokenizer: Tokenizer, template: str, special: Sequence[str]) -> Tokenizer:
    """Put the tokens ``special`` around a text, as ``template`` says."""
    from tokenizers.processors import TemplateProcessing

    ids = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = TemplateProcessing(single=template.format(*special), special_tokens=ids)
    return tokenizer


_REAL = {
    "clip_l": _Real(49408, "comfy/sd1_tokenizer", ("vocab.json", "merges.txt"), _openai_clip),
    "t5xxl": _Real(32128, "comfy/text_encoders/t5_tokenizer", ("spiece.model",), _google_t5),
}
