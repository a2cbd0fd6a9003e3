"""From a prompt to weighted tokens in ComfyUI's way: ``(word:1.2)``, nesting, escapes, chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
