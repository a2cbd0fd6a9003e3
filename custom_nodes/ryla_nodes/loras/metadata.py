"""What a trainer wrote into a LoRA file about itself: tool, base model, and the scale that the weights were trained at.

Keys of kohya (``ss_*``), the Stability metadata standard (``modelspec.*``), ai-toolkit (``software``), diffusers
(``lora_adapter_metadata``), PEFT (``adapter_config.json`` beside the file) and OneTrainer (``ot_*``). Metadata is a
stranger's text: none of it is trusted to be valid.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .families import Claim

_BASE_KEYS = ("base_model", "ss_sd_model_name", "modelspec.architecture", "ss_base_model_version")
_ARCHITECTURE_KEYS = ("ss_base_model_version", "modelspec.architecture")
_REPOSITORY_KEYS = ("base_model", "base_model_name_or_path", "ss_base_model", "ss_sd_model_name")
_ADAPTER = "lora_adapter_metadata"
# Parts of a pipeline that diffusers' adapter metadata may be about; the denoiser's are the ones that count here.
_DENOISERS = ("transformer", "unet", "diffusion_model")


@dataclass(frozen=True)
class Scale:
    """What ``source`` says about the scale of the low-rank product, beside the file's own ``.alpha`` keys.

    ``by_layer``: single layers have other numbers. ``rslora``: alpha is divided by the rank's square root.
    """

    source: str
    alpha: float | None
    rank: int | None = None
    rslora: bool = False
    dora: bool = False
    by_layer: bool = False

    def trained(self, rank: int | None) -> float | None:
        """The scale of training, for the ``rank`` of the matrices where none is recorded; None when it is not known."""
        rank = self.rank or rank
        if self.alpha is None or not rank:
            return None
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)


def base_model(metadata: Mapping[str, str]) -> str | None:
    """The model the LoRA was trained on, as the trainer names it."""
    for key in _BASE_KEYS:
        value = line(metadata.get(key, "")).removesuffix("/lora")
        if value and value != "None":
            return value
    told = adapter_fields(metadata).get("base_model_name_or_path")
    return str(told) if told else None


def claims(metadata: Mapping[str, str]) -> Iterator[Claim]:
    """What the metadata says of the base model, the most telling first."""
    for key in _ARCHITECTURE_KEYS:
        if text := line(metadata.get(key, "")).removesuffix("/lora"):
            yield Claim(f"metadata {key}", text, exact=True)
    if text := str(_object(metadata.get("ot_config", "")).get("model_type", "")):
        yield Claim("metadata ot_config", text, exact=True)
    if text := str(adapter_fields(metadata).get("base_model_name_or_path") or ""):
        yield Claim(f"metadata {_ADAPTER}", text)
    network = re.fullmatch(r"networks\.lora_(\w+)", metadata.get("ss_network_module", ""))
    if network:
        yield Claim("metadata ss_network_module", network[1])
    for key in _REPOSITORY_KEYS:
        if text := line(metadata.get(key, "")):
            yield Claim(f"metadata {key}", text)


def tool(metadata: Mapping[str, str]) -> str | None:
    """The program that trained the LoRA."""
    if "ai-toolkit" in metadata.get("software", ""):
        return "ai-toolkit"
    if any(key.startswith("ot_") for key in metadata):
        return "OneTrainer"
    module = metadata.get("ss_network_module", "")
    if "lycoris" in module:
        return "LyCORIS"
    if module:
        musubi = re.search(r"lora_(wan|qwen|hunyuan|zimage|framepack|flux_)", module)
        return "musubi-tuner" if musubi else "kohya sd-scripts"
    return "diffusers" if _ADAPTER in metadata else None


def alpha(metadata: Mapping[str, str]) -> float | None:
    """The network alpha that the trainer recorded (a low-rank product is scaled by alpha / rank)."""
    return next((scale.alpha for scale in scales(metadata) if scale.alpha is not None), None)


def scales(metadata: Mapping[str, str]) -> Iterator[Scale]:
    """Everything that the metadata records about the scale."""
    kohya = _number(metadata.get("ss_network_alpha"))
    if kohya is not None:
        yield Scale("metadata ss_network_alpha", kohya, _count(metadata.get("ss_network_dim")))
    fields = adapter_fields(metadata)
    if fields:
        yield scale_of(f"metadata {_ADAPTER}", fields)
    plain = {key: metadata[key] for key in ("lora_alpha", "r", "use_rslora", "use_dora") if key in metadata}
    if plain:
        yield scale_of("metadata lora_alpha", plain)


def scale_of(source: str, fields: Mapping[str, Any]) -> Scale:
    """The scale that PEFT's fields (``r``, ``lora_alpha``, ``use_rslora``, ``alpha_pattern`` ...) describe."""
    return Scale(
        source,
        _number(fields.get("lora_alpha")),
        _count(fields.get("r")),
        rslora=_is_set(fields.get("use_rslora")),
        dora=_is_set(fields.get("use_dora")),
        by_layer=bool(fields.get("alpha_pattern") or fields.get("rank_pattern")),
    )


def adapter_fields(metadata: Mapping[str, str]) -> dict[str, Any]:
    """diffusers' adapter metadata of the denoiser; its keys carry the component: ``transformer.lora_alpha``."""
    fields: dict[str, Any] = {}
    for key, value in _object(metadata.get(_ADAPTER, "")).items():
        component, _, name = key.rpartition(".")
        if not component or component in _DENOISERS:
            fields[name] = value
    return fields


def line(text: str) -> str:
    """``text`` on one line, without what a terminal would obey."""
    return " ".join("".join(char for char in text if char.isprintable() or char.isspace()).split())


def parse_json(text: str) -> Any:
    """The value of a JSON text, None when it is not JSON (or nested deeper than the parser goes)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(text: str) -> dict[str, Any]:
    parsed = parse_json(text)
    return parsed if isinstance(parsed, dict) else {}


def _number(value: object) -> float | None:
    text = str(value) if not isinstance(value, bool) else ""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number and number.is_integer() else None


def _is_set(value: object) -> bool:
    return str(value).casefold() == "true"
