"""How the layout of a LoRA file is called, and what of it ComfyUI does not read or apply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..models.headers import Header
from . import keys, metadata
from .keys import Module, Tensors
from .metadata import Scale

_SAME_SCALE = 1e-6
_MAX_STRENGTH = 2.0
_ORIGINAL = "Take the LoRA's original file: the one before it was converted."
# PEFT's products by a role that only they have: what they are called.
_PEFT = {
    "oft_R": "OFT in PEFT's spelling (oft_R)",
    "oft_S": "OFT in PEFT's spelling (oft_R)",
    "boft_R": "BOFT in PEFT's spelling (boft_R)",
    "boft_s": "BOFT in PEFT's spelling (boft_R)",
    "vera_lambda_b": "VeRA (vera_lambda)",
    "vera_lambda_d": "VeRA (vera_lambda)",
    "ia3_l": "IA3 in PEFT's spelling (ia3_l)",
    "hra_u": "HRA (hra_u)",
    "fourierft_spectrum": "FourierFT (fourierft_spectrum)",
    "on_input": "IA3 in LyCORIS' spelling",
}


def name(header: Header, modules: Sequence[Module]) -> str:
    """The naming scheme: kohya, diffusers, peft, comfyui, ai-toolkit, bfl-control, xlabs, onetrainer, simpletuner or
    nunchaku."""
    if keys.is_control(header.tensors):
        return "bfl-control"
    if any(module.packed for module in modules):
        return "nunchaku"
    scheme = Counter(module.scheme for module in modules).most_common(1)[0][0]
    if metadata.tool(header.metadata) == "ai-toolkit" and scheme in ("diffusers", "comfyui"):
        return "ai-toolkit"
    return "peft" if scheme == "bare" else scheme


def foreign(tensors: Tensors, modules: Iterable[Module]) -> tuple[str, str] | None:
    """What a layout is that ComfyUI reads no key of, and what to do; None for the others."""
    found = list(modules)
    if any(module.packed for module in found):
        advice = f"Load it with the nodes of ComfyUI-nunchaku. {_ORIGINAL}"
        return "nunchaku's packed format (SVDQuant: lora_down and lora_up without .weight)", advice
    if found and all(module.scheme == "xlabs" for module in found) and not keys.is_whole_xlabs(tensors):
        advice = f"{_ORIGINAL} Or convert it to diffusers' names."
        return "XLabs' layout with some blocks only, which ComfyUI reads only with all 19 and 38", advice
    if any(module.is_read for module in found):
        return None
    named = next((_PEFT[role] for module in found for role in module.tensors if role in _PEFT), None)
    if named is not None:
        return named, "Train or export it as LoRA, or as LyCORIS' oft_blocks, which ComfyUI applies."
    adapter = next((key for module in found for key in module.keys.values() if ".lora_" in key), None)
    if adapter is not None:
        return f"a spelling of its keys that ComfyUI does not know ({adapter})", "Save it as diffusers or kohya do."
    return None


def not_applied(
    tensors: Tensors, modules: Sequence[Module], alphas: frozenset[float], scales: Sequence[Scale]
) -> Iterator[str]:
    """What a file records of its training and no engine here applies, as ComfyUI does not.

    Args:
        alphas: the values of the file's own alpha keys. scales: what is recorded elsewhere, the most telling first.
    """
    roles = {role for module in modules for role in module.tensors}
    ranks = {module.rank for module in modules}
    for scale in scales[:1]:
        yield from _scale(alphas, scale, ranks.pop() if len(ranks) == 1 else None)
    if "lora_magnitude_vector" in roles:
        yield "its DoRA scales (lora_magnitude_vector, PEFT's spelling) are not applied: ComfyUI does not read them"
    elif any(scale.dora for scale in scales) and "dora_scale" not in roles:
        yield "it records that it is a DoRA, but the file has no DoRA scales: a plain LoRA is applied"
    if roles & {"down_bias", "up_bias"} and not keys.is_control(tensors):
        yield "its biases (lora_B.bias) are not applied: ComfyUI does not read them"
    if "lora_E" in roles:
        yield "its AdaLoRA factors (lora_E) are not applied: ComfyUI does not read them"
    if any(key.startswith("bundle_emb.") for key in tensors):
        yield "the embedding that it brings (bundle_emb) is not applied: ComfyUI does not read it"


def _scale(alphas: frozenset[float], scale: Scale, rank: int | None) -> Iterator[str]:
    """Where the recorded scale is not the one that ComfyUI applies: alpha / rank by the keys, 1 without them."""
    if alphas:
        if scale.alpha is not None and scale.alpha not in alphas:
            inside = ", ".join(f"{alpha:g}" for alpha in sorted(alphas))
            yield f"{scale.source} records alpha {scale.alpha:g}; the file's keys say {inside}, and these are applied"
        return
    if scale.by_layer:
        yield f"{scale.source} records an alpha or rank of its own for some layers, which the file's keys do not have"
    trained = scale.trained(rank)
    if trained is not None and abs(trained - 1) > _SAME_SCALE:
        root = "the root of " if scale.rslora else ""
        yield (
            f"{scale.source} records alpha {scale.alpha:g} over {root}rank {scale.rank or rank}: it was trained at a "
            f"scale of {trained:g}, which is not in the file's keys and not applied (ComfyUI applies 1 as well); "
            + (f"strength {trained:g} gives that" if trained <= _MAX_STRENGTH else "no strength up to 2 gives that")
        )
