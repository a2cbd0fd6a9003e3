"""CLIP-L and T5 of any width, depth and vocabulary, with the tokenizers beside their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.clip_model
import comfy.sd
import comfy.text_encoders.flux
import comfy.utils
from comfy import sd1_clip
from transformers import PreTrainedTokenizerFast

CLIP_HEAD = 64


@dataclass(frozen=True)
class Small:
    """The shapes and the tokenizers of one pair of small encoders."""

    clip_l: Mapping[str, Any]
    t5xxl: Mapping[str, Any]
    clip_vocabulary: int
    clip_tokenizer: Path
    t5_tokenizer: Path

    @property
    def model_options(self) -> dict[str, Any]:
        # `load_clip` makes clip_l's from "model_config", a checkpoint's loader takes it as it is.
        return {
            "model_config": dict(self.clip_l),
            "clip_l_model_config": dict(self.clip_l),
            "t5xxl_model_config": dict(self.t5xxl),
        }


def beside(encoder: Path) -> Path:
    return encoder.with_name(f"{encoder.stem}.tokenizer.json")


def shapes(clip_l: Mapping[str, Any], t5xxl: Mapping[str, Any], clip_tokenizer: Path, t5_tokenizer: Path) -> Small:
    """Read the dimensions off two state dicts with the keys of ``text_model.`` and ``encoder.block.``."""
    words, width = clip_l["text_model.embeddings.token_embedding.weight"].shape
    attention = "encoder.block.0.layer.0.SelfAttention"
    heads = t5xxl[f"{attention}.relative_attention_bias.weight"].shape[1]
    return Small(
        clip_l={
            "hidden_size": width,
            "intermediate_size": clip_l["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_attention_heads": width // CLIP_HEAD,
            "num_hidden_layers": _count(clip_l, "text_model.encoder.layers.{}.mlp.fc1.weight"),
        },
        t5xxl={
            "d_model": t5xxl["shared.weight"].shape[1],
            "d_ff": t5xxl["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
            "d_kv": t5xxl[f"{attention}.q.weight"].shape[0] // heads,
            "num_heads": heads,
            "num_layers": _count(t5xxl, "encoder.block.{}.layer.0.layer_norm.weight"),
            "vocab_size": t5xxl["shared.weight"].shape[0],
        },
        clip_vocabulary=words,
        clip_tokenizer=clip_tokenizer,
        t5_tokenizer=t5_tokenizer,
    )


def _count(weights: Mapping[str, Any], pattern: str) -> int:
    number = 0
    while pattern.format(number) in weights:
        number += 1
    return number


class _FromFile:
    """Stands where ComfyUI expects a tokenizer class of transformers."""

    @staticmethod
    def from_pretrained(path: str, **_: Any) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast(tokenizer_file=path)


def _tokenizer_class(small: Small) -> type:
    class SmallFluxTokenizer(comfy.text_encoders.flux.FluxTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            self.clip_l = sd1_clip.SDTokenizer(
                str(small.clip_tokenizer), embedding_size=small.clip_l["hidden_size"], tokenizer_class=_FromFile
            )
            self.t5xxl = sd1_clip.SDTokenizer(
                str(small.t5_tokenizer),
                pad_with_end=False,
                embedding_size=small.t5xxl["d_model"],
                embedding_key="t5xxl",
                tokenizer_class=_FromFile,
                has_start_token=False,
                pad_to_max_length=False,
                max_length=99999999,
                min_length=256,
            )

    return SmallFluxTokenizer


@contextmanager
def shaped(small: Small) -> Iterator[None]:
    """Within this block ComfyUI builds encoders for ``small``."""
    embeddings = partial(comfy.clip_model.CLIPEmbeddings, vocab_size=small.clip_vocabulary)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(comfy.clip_model, "CLIPEmbeddings", embeddings))
        stack.enter_context(mock.patch.object(comfy.text_encoders.flux, "FluxTokenizer", _tokenizer_class(small)))
        yield


def with_special_tokens(clip: Any) -> Any:
    """Tell CLIP-L the ids of the small vocabulary's start and end."""
    tokenizer = clip.tokenizer.clip_l
    ids = {"start": tokenizer.start_token, "end": tokenizer.end_token, "pad": tokenizer.pad_token}
    clip.cond_stage_model.clip_l.special_tokens = ids
    return clip


def install() -> None:
    """Wrap ``comfy.sd.load_clip``, which core's loaders call."""
    original = comfy.sd.load_clip

    def load_clip(ckpt_paths: list[str], *args: Any, **kwargs: Any) -> Any:
        paths = [Path(path) for path in ckpt_paths]
        if len(paths) != 2 or not all(beside(path).is_file() for path in paths):
            return original(ckpt_paths, *args, **kwargs)
        loaded = {path: comfy.utils.load_torch_file(str(path), safe_load=True) for path in paths}
        clip_l, t5xxl = sorted(paths, key=lambda path: "shared.weight" in loaded[path])
        small = shapes(loaded[clip_l], loaded[t5xxl], beside(clip_l), beside(t5xxl))
        kwargs["model_options"] = {**kwargs.get("model_options", {}), **small.model_options}
        with shaped(small):
            return with_special_tokens(original(ckpt_paths, *args, **kwargs))

    comfy.sd.load_clip = load_clip
