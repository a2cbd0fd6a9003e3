"""Flux's text encoders, CLIP-L and T5: loaded from ComfyUI's files, run with ComfyUI's prompt weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....models.folders import ModelFolders
from . import tokenizers
from .text_networks import ClipShape, ClipText, T5Encoder, T5Shape
from .tokenizers import Chunk, PromptTokenizer
from .weights import Network, Patch, Placement, WeightFile, fill

CLIP_HEAD_WIDTH = 64
_KEPT = 16  # What T5 says of 256 tokens takes 4 MB.
Tokens = dict[str, list[Chunk]]
Encoded = tuple[torch.Tensor, torch.Tensor | None]
Conditioning = list[list[Any]]


@dataclass(frozen=True)
class TextEncoder:
    """One encoder with its tokenizer. It keeps what it said of the prompts of late."""

    network: Network
    tokenizer: PromptTokenizer
    placement: Placement
    kept: OrderedDict[tuple[tuple[tuple[int, float], ...], ...], Encoded] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    def patched(self, patches: Iterable[Patch]) -> TextEncoder:
        """A clone with further patches; itself without any: a LoRA that leaves it alone costs no encoding."""
        further = list(patches)
        return replace(self, network=self.network.patched(further), kept=OrderedDict()) if further else self

    def encode(self, chunks: list[Chunk]) -> Encoded:
        """What the encoder says of chunks of weighted tokens, all of one length; for those of late it is not run again.

        A token's state is moved from the empty prompt's state at its place by its weight:
        ``empty + weight * (state - empty)``.

        Returns:
            States [1, chunks * length, D] and the first chunk's pooled state [1, D] (None for T5), float32 on the CPU.
        """
        key = tuple(tuple(chunk) for chunk in chunks)
        if key not in self.kept:
            self.kept[key] = self._run(chunks)
            while len(self.kept) > _KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]

    @torch.inference_mode()
    def _run(self, chunks: list[Chunk]) -> Encoded:
        ids = [[token for token, _ in chunk] for chunk in chunks]
        weights = torch.tensor([[weight for _, weight in chunk] for chunk in chunks])
        weighted = bool((weights != 1.0).any())
        if weighted:
            ids.append(self.tokenizer.empty(len(ids[0])))
        encoded = self.network.module(torch.tensor(ids, device=self.placement.device))
        states = encoded.states.float().cpu()
        if weighted:
            states, empty = states[:-1], states[-1:]
            states = torch.where(weights[..., None] == 1.0, states, empty + weights[..., None] * (states - empty))
        pooled = encoded.pooled
        return states.flatten(0, 1)[None], None if pooled is None else pooled[:1].float().cpu()


@dataclass(frozen=True)
class FluxText:
    """What the engine calls a CLIP: CLIP-L for the pooled vector, T5 for the context."""

    clip_l: TextEncoder
    t5xxl: TextEncoder

    def tokenize(self, prompt: str) -> Tokens:
        """The prompt's weighted tokens for each encoder."""
        return {"l": self.clip_l.tokenizer.tokenize(prompt), "t5xxl": self.t5xxl.tokenizer.tokenize(prompt)}

    def encode(self, tokens: Tokens, **values: Any) -> Conditioning:
        """A conditioning: ``[[context [1, T, D], {"pooled_output": [1, D'], **values}]]``."""
        context, _ = self.t5xxl.encode(tokens["t5xxl"])
        _, pooled = self.clip_l.encode(tokens["l"])
        return [[context, {"pooled_output": pooled, **values}]]

    def patched(self, clip_l: Iterable[Patch], t5xxl: Iterable[Patch]) -> FluxText:
        """A clone with patches on both encoders; each has its base's weights as long as it has none."""
        return FluxText(self.clip_l.patched(clip_l), self.t5xxl.patched(t5xxl))


def load_clip_l(
    file: WeightFile, tokenizer_of: Path, folders: ModelFolders, placement: Placement, *, penultimate: bool = False
) -> TextEncoder:
    """CLIP-L from a file with ``text_model.*`` keys; ``tokenizer_of`` is the file that the tokenizer lies beside.

    With ``penultimate`` its states are those before the last layer.

    Raises:
        RylaError: ``incomplete_weights``, ``missing_tokenizer``, ``wrong_tokenizer``.
    """
    vocabulary, width = file.shape("text_model.embeddings.token_embedding.weight")
    tokenizer = tokenizers.clip_l(tokenizer_of, vocabulary, folders)
    shape = ClipShape(
        vocabulary=vocabulary,
        positions=file.shape("text_model.embeddings.position_embedding.weight")[0],
        width=width,
        inner=file.shape("text_model.encoder.layers.0.mlp.fc1.weight")[0],
        layers=file.count("text_model.encoder.layers.{}."),
        heads=width // CLIP_HEAD_WIDTH,
        end=tokenizer.end,
        penultimate=penultimate,
    )
    with torch.device("meta"):
        module = ClipText(shape)
    return filled(module, file.tensors(placement.device), file.path, tokenizer, placement)


def load_t5xxl(file: WeightFile, tokenizer_of: Path, folders: ModelFolders, placement: Placement) -> TextEncoder:
    """T5 v1.1's encoder from a file with ``encoder.block.*`` keys; ``tokenizer_of`` and errors as for CLIP-L."""
    vocabulary, width = file.shape("shared.weight")
    tokenizer = tokenizers.t5xxl(tokenizer_of, vocabulary, folders)
    attention = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = file.shape(f"{attention}.relative_attention_bias.weight")
    shape = T5Shape(
        vocabulary=vocabulary,
        width=width,
        inner=file.shape("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")[0],
        layers=file.count("encoder.block.{}."),
        heads=heads,
        head=file.shape(f"{attention}.q.weight")[0] // heads,
        buckets=buckets,
    )
    with torch.device("meta"):
        module = T5Encoder(shape)
    return filled(module, file.tensors(placement.device), file.path, tokenizer, placement)


def filled(
    module: nn.Module,
    tensors: Iterable[tuple[str, torch.Tensor]],
    path: Path,
    tokenizer: PromptTokenizer,
    placement: Placement,
) -> TextEncoder:
    """The encoder of ``module``, which is on the meta device, with its weights from ``path`` put in their place."""
    # Converted before it is moved: not every device knows every dtype of a file.
    placed = ((name, tensor.to(placement.dtype).to(placement.device)) for name, tensor in tensors)
    return TextEncoder(Network(fill(module, placed, str(path))), tokenizer, placement)
