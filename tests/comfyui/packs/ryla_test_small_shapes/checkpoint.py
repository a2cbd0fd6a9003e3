"""All-in-one checkpoints with small text encoders: tokenizers in ``<file>.clip_l.tokenizer.json`` and ``.t5xxl.``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils

from . import text

CLIP_L = "text_encoders.clip_l.transformer."
T5XXL = "text_encoders.t5xxl.transformer."


def install() -> None:
    """Wrap ``comfy.sd.load_checkpoint_guess_config``."""
    original = comfy.sd.load_checkpoint_guess_config

    def load(ckpt_path: str, *args: Any, **kwargs: Any) -> Any:
        path = Path(ckpt_path)
        tokenizers = [path.with_name(f"{path.stem}.{part}.tokenizer.json") for part in ("clip_l", "t5xxl")]
        if not all(tokenizer.is_file() for tokenizer in tokenizers):
            return original(ckpt_path, *args, **kwargs)
        weights = comfy.utils.load_torch_file(ckpt_path)
        small = text.shapes(_below(weights, CLIP_L), _below(weights, T5XXL), *tokenizers)
        kwargs["te_model_options"] = {**kwargs.get("te_model_options", {}), **small.model_options}
        with text.shaped(small):
            model, clip, *rest = original(ckpt_path, *args, **kwargs)
        return (model, text.with_special_tokens(clip), *rest)

    comfy.sd.load_checkpoint_guess_config = load


def _below(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
