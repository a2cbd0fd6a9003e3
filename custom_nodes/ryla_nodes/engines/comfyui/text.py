"""Text encodings that are kept: the same prompt with another LoRA on the transformer is not encoded again.

ComfyUI keeps what a node gave for as long as everything before it stays as it is, so that a change of LoRA costs an
encoding even when the LoRA leaves the text encoders alone, and on a small card the way of T5 onto it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from comfy.sd import CLIP

_KEPT = 16  # Of FLUX.1 with 256 tokens each takes 4 MB.


class KeptTexts(CLIP):  # type: ignore[misc]
    """A CLIP as it was loaded. Its clones, which may be patched, are plain ones and keep nothing."""

    def encode_from_tokens_scheduled(self, tokens: Any, *arguments: Any, **options: Any) -> Any:
        """As core's; from memory for the tokens of late, while nothing but them matters."""
        key = None if arguments or options or self._is_changed() else _key(tokens)
        if key is None:
            return super().encode_from_tokens_scheduled(tokens, *arguments, **options)
        kept: OrderedDict[Any, Any] = self.__dict__.setdefault("ryla_kept", OrderedDict())
        if key not in kept:
            kept[key] = super().encode_from_tokens_scheduled(tokens)
            while len(kept) > _KEPT:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return [[states, dict(values)] for states, values in kept[key]]

    def _is_changed(self) -> bool:
        """Whether it is not, or not only, what was loaded."""
        patcher = self.patcher
        hooked = patcher.forced_hooks is not None or patcher.hook_patches or self.apply_hooks_to_conds is not None
        return bool(patcher.patches or hooked or self.layer_idx is not None)


def keeping(clip: Any) -> Any:
    """``clip``, which from now on keeps what it encodes; one of another extension's kind as it is."""
    if type(clip) is CLIP:
        clip.__class__ = KeptTexts
    return clip


def _key(tokens: Any) -> Any:
    """``tokens`` as they can be looked up; None with embeddings among them, which are tensors."""
    if isinstance(tokens, dict):
        parts = [(name, _key(value)) for name, value in sorted(tokens.items())]
        return None if any(part is None for _, part in parts) else tuple(parts)
    if isinstance(tokens, (list, tuple)):
        found = [_key(each) for each in tokens]
        return None if any(each is None for each in found) else tuple(found)
    return tokens if isinstance(tokens, (int, float, str)) else None
