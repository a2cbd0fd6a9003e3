"""Tokenizers for the small text encoders: one token a byte, with the special tokens of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
T5_PAD, T5_END = "<pad>", "</s>"


def clip_l() -> Tokenizer:
    """Bytes of the lower-cased prompt between start and end, which are the last two of 258 tokens."""
    from tokenizers import normalizers, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = _byte_level([*alphabet, CLIP_START, CLIP_END], [CLIP_START, CLIP_END])
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    ids = [(token, tokenizer.token_to_id(token)) for token in (CLIP_START, CLIP_END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{CLIP_START} $A {CLIP_END}", special_tokens=ids)
    return tokenizer


def t5xxl() -> Tokenizer:
    """Bytes and an end; padding is token 0 and the end token 1 of 258, as in T5's own vocabulary."""
    from tokenizers import normalizers, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = _byte_level([T5_PAD, T5_END, *alphabet], [T5_PAD, T5_END])
    tokenizer.normalizer = normalizers.NFKC()
    ids = [(T5_END, tokenizer.token_to_id(T5_END))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {T5_END}", special_tokens=ids)
    return tokenizer


def _byte_level(vocabulary: list[str], special: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer
