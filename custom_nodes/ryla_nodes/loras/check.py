"""Whether a LoRA fits a model, before and after it was applied, and the line that says what it did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RylaError
from . import families

if TYPE_CHECKING:
    from .inspect import LoraInfo
    from .store import LoraFile

MAX_STRENGTH = 2.0
_SHOWN_KEYS = 3


@dataclass(frozen=True)
class LoraResult:
    """A patched model and CLIP with what matched.

    ``matched_model`` and ``matched_clip`` count the weights of the model that the file patches; ``unmatched`` names the
    file's keys that patched nothing.
    """

    model: Any
    clip: Any
    matched_model: int
    matched_clip: int
    unmatched: tuple[str, ...]


def require_strength(value: object, name: str = "lora_strength") -> float:
    """A finite number in [-2, 2]: what is linked to a node's input, and NaN, pass by the engine's own check.

    Raises:
        RylaError: ``invalid_parameter``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RylaError("invalid_parameter", f"{name} is {value!r}, not a number.", parameter=name)
    if abs(value) > MAX_STRENGTH:
        line = f"{name} is {value}, outside {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}."
        raise RylaError("invalid_parameter", line, parameter=name)
    return float(value)


def require_family(info: LoraInfo, model_family: str, *, clip: bool = True) -> None:
    """Refuse a LoRA of another family than the model's, or of a layout that nobody here reads, before a weight is read.

    A family that is unknown on either side, or one of several that the layers fit, passes: then ``require_matches``
    decides. ``clip`` says whether a CLIP is connected, without which a LoRA of text encoders only has nothing to patch.

    Raises:
        RylaError: ``lora_wrong_family``, ``lora_matches_nothing``.
    """
    if info.foreign:
        raise RylaError(
            "lora_matches_nothing",
            f"{info.path.name} (for {families.title(info.family)}) is in {info.foreign}; ComfyUI reads none of it.",
            hint=info.advice,
            **_both(info, model_family),
        )
    if info.possible_families and model_family != "unknown" and model_family not in info.possible_families:
        raise RylaError(
            "lora_wrong_family",
            f"{info.path.name} is a LoRA for {families.title(info.family)}, "
            f"the model is {families.title(model_family)}.",
            hint="Take a LoRA trained for the model's family: ryla loras list",
            **_both(info, model_family),
        )
    if not info.patches_model and not clip:
        raise RylaError(
            "lora_matches_nothing",
            f"{info.path.name} patches only text encoders ({', '.join(info.components)}), and no CLIP is connected.",
            hint="Connect the loader's CLIP to the LoRA node.",
            **_both(info, model_family),
        )


def require_matches(info: LoraInfo, result: LoraResult, model_family: str) -> None:
    """Refuse a LoRA of which no weight fits: the engine itself would go on and give the picture without it.

    Raises:
        RylaError: ``lora_matches_nothing``.
    """
    if result.matched_model or (result.matched_clip and not info.patches_model):
        return
    peft = info.format == "peft" and info.targets
    raise RylaError(
        "lora_matches_nothing",
        f"No weight of {info.path.name} (for {families.title(info.family)}; {info.kind}) fits the model "
        f"({families.title(model_family)}); its keys are such as {_some(result.unmatched)}.",
        hint="Save it with diffusers' names: its keys then begin with transformer." if peft else "",
        **_both(info, model_family),
    )


def wrong_size(path: Path, layer: str) -> RylaError:
    """The error for a LoRA that names the model's layers, ``layer`` for one, and fits none of them."""
    line = f"{path} names this model's layers, {layer} for one, but its matrices are of another size."
    return RylaError("lora_wrong_size", line, path=path)


def report(file: LoraFile, info: LoraInfo, result: LoraResult, strength: float, trigger_word: str = "") -> str:
    """What was found and what it did, one fact a line. ``trigger_word`` is the request's, which wins."""
    lines = [f"{file.id}: {file.path} ({families.title(info.family)}, {info.kind}), strength {strength:g}"]
    if file.also:
        lines.append(f"{len(file.also) + 1} files answer to this id; not taken: {', '.join(map(str, file.also))}")
    lines.append(f"matched {result.matched_model} weights of the model, {result.matched_clip} of the text encoders")
    if result.unmatched:
        lines.append(f"{len(result.unmatched)} keys of the file matched nothing, such as {_some(result.unmatched)}")
    if not info.patches_model:
        lines.append("it patches text encoders only: the diffusion model is unchanged")
    lines.extend(info.notes)
    if info.family == "unknown":
        lines.append("its family is not known; the matched weights are the only check")
    if trigger_word or info.trigger_word:
        source = "the request" if trigger_word else info.trigger_source
        lines.append(f"trigger word {(trigger_word or info.trigger_word)!r} (from {source})")
    return "\n".join(lines)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN_KEYS]) + (" ..." if len(names) > _SHOWN_KEYS else "") if names else "none"


def _both(info: LoraInfo, model_family: str) -> dict[str, str]:
    return {"lora_family": info.family, "model_family": model_family, "path": str(info.path)}
