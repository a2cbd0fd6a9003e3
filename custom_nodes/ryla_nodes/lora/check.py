"""Whether a LoRA fits a model, before and after it was applied, and the line that says what it did."""

from __future__ import annotations

import math

from ..errors import RylaError
from ..host.protocol import LoraResult
from . import families
from .inspect import LoraInfo
from .store import LoraFile

MAX_STRENGTH = 10.0
_SHOWN_KEYS = 3


def require_strength(value: object, name: str = "lora_strength") -> float:
    """A finite number in [-10, 10].

    Raises:
        RylaError: ``invalid_parameter``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RylaError("invalid_parameter", f"{name} is {value!r}, not a number.", parameter=name)
    if abs(value) > MAX_STRENGTH:
        raise RylaError("invalid_parameter", f"{name} is {value}, outside -10 to 10.", parameter=name)
    return float(value)


def require_family(info: LoraInfo, model_family: str, *, clip: bool = True) -> None:
    """Refuse a LoRA of another family than the model's, before any weight is read.

    An unknown family on either side passes: then ``require_matches`` decides. ``clip`` says whether a CLIP is
    connected, without which a LoRA of text encoders only has nothing to patch.

    Raises:
        RylaError: ``lora_wrong_family``, ``lora_matches_nothing``.
    """
    known = "unknown" not in (info.family, model_family)
    if known and info.family != model_family:
        raise RylaError(
            "lora_wrong_family",
            f"{info.path.name} is a LoRA for {families.title(info.family)}, "
            f"the model is {families.title(model_family)}.",
            hint="Take a LoRA trained for the model's family: ryla loras list.",
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
    raise RylaError(
        "lora_matches_nothing",
        f"No weight of {info.path.name} (for {families.title(info.family)}; {_kind(info)}) fits the model "
        f"({families.title(model_family)}); its keys are such as {_some(result.unmatched)}.",
        **_both(info, model_family),
    )


def report(file: LoraFile, info: LoraInfo, result: LoraResult | None, strength: float) -> str:
    """What was found and what it did, one fact a line. ``result`` is None where nothing was applied."""
    lines = [f"{file.id}: {file.path} ({families.title(info.family)}, {_kind(info)}), strength {strength:g}"]
    if file.also:
        lines.append(f"{len(file.also) + 1} files answer to this id; not taken: {', '.join(map(str, file.also))}")
    if result is not None:
        lines.append(f"matched {result.matched_model} weights of the model, {result.matched_clip} of the text encoders")
        if result.unmatched:
            lines.append(f"{len(result.unmatched)} keys of the file matched nothing, such as {_some(result.unmatched)}")
    if not info.patches_model:
        lines.append("it patches text encoders only: the diffusion model is unchanged")
    if info.family == "unknown":
        lines.append("its family is not known; the matched weights are the only check")
    if info.trigger_word:
        lines.append(f"trigger word {info.trigger_word!r} (from {info.trigger_source})")
    return "\n".join(lines)


def _kind(info: LoraInfo) -> str:
    return f"{info.format} {'+'.join(info.algorithms)}, rank {info.rank_text}"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN_KEYS]) + (" ..." if len(names) > _SHOWN_KEYS else "") if names else "none"


def _both(info: LoraInfo, model_family: str) -> dict[str, str]:
    return {"lora_family": info.family, "model_family": model_family, "path": str(info.path)}
