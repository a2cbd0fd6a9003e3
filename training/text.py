"""Tokenizers of the captions' language for T5 and CLIP-L.

They are byte-level, so any word of any language can be written; the captions' own words are single tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from .captions import caption, mira_caption
from .scenes import FACE_BACKGROUNDS, random_scene

T5_LENGTH, CLIP_LENGTH = 256, 77
"""FLUX.1 reads T5 text padded to at least 256 tokens and CLIP text padded to 77."""
LONGEST = 40
"""No caption of the grammar has more T5 tokens."""
VOCABULARY = 640
START, END = "<|startoftext|>", "<|endoftext|>"


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(6000):
        yield caption(random_scene(rng, held_out=False), rng)
        yield mira_caption(rng, rng.choice(FACE_BACKGROUNDS))


def _byte_pairs(corpus: Iterable[str], special: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def t5_tokenizer(seed: int) -> Tokenizer:
    """T5's conventions: ``<pad>`` 0, ``</s>`` 1 after the text."""
    tokenizer = _byte_pairs(_corpus(seed), ("<pad>", "</s>", "<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def clip_tokenizer(seed: int, corpus: Iterable[str] | None = None) -> Tokenizer:
    """CLIP's conventions: start and end of text around it, the end also pads. The words are the corpus's."""
    tokenizer = _byte_pairs(corpus or _corpus(seed), ())
    tokenizer.add_special_tokens([START, END])
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Tensor:
    """Token ids (N, length), padded (T5: ``<pad>``, CLIP: the end of text) or cut with the last token kept."""
    padding = tokenizer.token_to_id(END) if tokenizer.token_to_id(END) is not None else 0
    rows = []
    for encoding in tokenizer.encode_batch(list(texts)):
        ids = encoding.ids
        ids = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
        rows.append(ids + [padding] * (length - len(ids)))
    return torch.tensor(rows, dtype=torch.long)
