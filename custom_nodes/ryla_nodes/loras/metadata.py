"""What a trainer wrote into a LoRA file: trigger word, base model, tool, alpha.

Keys of kohya (``ss_*``), the Stability metadata standard (``modelspec.*``), ai-toolkit (``software``), diffusers
(``lora_adapter_metadata``) and OneTrainer (``ot_*``). Metadata is a stranger's text: none of it is trusted to be valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_TRIGGER = 200

_TRIGGER_KEYS = (
    "modelspec.trigger_phrase",
    "ss_trigger_words",
    "trigger_phrase",
    "trigger_words",
    "trigger_word",
    "trigger",
    "instance_prompt",
)
_BASE_KEYS = ("base_model", "ss_sd_model_name", "modelspec.architecture", "ss_base_model_version")
_GENERIC = {
    "1girl",
    "1boy",
    "solo",
    "a woman",
    "a man",
    "woman",
    "man",
    "girl",
    "boy",
    "person",
    "a person",
    "photo",
    "portrait",
}
_CAPTION_START = re.compile(r"^(a )?(photo|picture|image|portrait) of (a |an |the )?", re.IGNORECASE)
_MAX_TAG = 60


def trigger_word(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """``(trigger word, metadata key it came from)``; None when the metadata does not tell."""
    for key in _TRIGGER_KEYS:
        word = clean_trigger(_words(metadata.get(key, "")))
        if word:
            return word, key
    tag = _only_tag(_objects(metadata, "ss_tag_frequency"), _objects(metadata, "ss_dataset_dirs"))
    return (tag, "ss_tag_frequency") if tag else None


def clean_trigger(text: str) -> str:
    """One line without surrounding commas, at most ``MAX_TRIGGER`` characters; "a photo of sks dog" -> "sks dog"."""
    line = _line(text).strip(" ,")
    line = _CAPTION_START.sub("", line)
    return line if len(line) <= MAX_TRIGGER and line.casefold() != "none" else ""


def _line(text: str) -> str:
    return " ".join("".join(char for char in text if char.isprintable() or char.isspace()).split())


def base_model(metadata: Mapping[str, str]) -> str | None:
    """The model the LoRA was trained on, as the trainer names it."""
    for key in _BASE_KEYS:
        value = _line(metadata.get(key, "")).removesuffix("/lora")
        if value and value != "None":
            return value
    return _adapter(metadata, "base_model_name_or_path")


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
        return (
            "musubi-tuner"
            if re.search(r"lora_(wan|qwen|hunyuan|zimage|framepack|flux_)", module)
            else "kohya sd-scripts"
        )
    return "diffusers" if "lora_adapter_metadata" in metadata else None


def alpha(metadata: Mapping[str, str]) -> float | None:
    """The network alpha that the trainer recorded (a low-rank product is scaled by alpha / rank)."""
    for value in (metadata.get("ss_network_alpha", ""), _adapter(metadata, "lora_alpha") or ""):
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value)
    return None


def parse_json(text: str) -> Any:
    """The value of a JSON text, None when it is not JSON (or nested deeper than the parser goes)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _adapter(metadata: Mapping[str, str], name: str) -> str | None:
    """A field of diffusers' adapter metadata, whose keys carry the component: ``transformer.lora_alpha``."""
    fields = parse_json(metadata.get("lora_adapter_metadata", ""))
    if not isinstance(fields, dict):
        return None
    values = (value for key, value in fields.items() if key.split(".")[-1] == name and value is not None)
    return next((str(value) for value in values), None)


def _words(value: str) -> str:
    parsed = parse_json(value) if value.lstrip().startswith("[") else None
    return ", ".join(str(word) for word in parsed) if isinstance(parsed, list) else value


def _objects(metadata: Mapping[str, str], key: str) -> dict[str, dict[str, Any]]:
    parsed = parse_json(metadata.get(key, ""))
    items = parsed.items() if isinstance(parsed, dict) else ()
    return {name: value for name, value in items if isinstance(value, dict)}


def _only_tag(tags: dict[str, dict[str, Any]], folders: dict[str, dict[str, Any]]) -> str | None:
    """The one tag of the training captions that every picture has; None when there are several or none.

    ai-toolkit writes its trigger word in this form, as the only tag.
    """
    counts: dict[str, int] = {}
    for tag, count in ((tag, count) for folder in tags.values() for tag, count in folder.items()):
        if isinstance(count, int):
            counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    pictures = sum(n for name in tags if isinstance(n := folders.get(name, {}).get("img_count"), int))
    constant = [tag for tag, count in counts.items() if len(counts) == 1 or (pictures and count >= pictures)]
    telling = [tag for tag in constant if tag.casefold() not in _GENERIC and 0 < len(tag) <= _MAX_TAG]
    return clean_trigger(telling[0]) or None if len(telling) == 1 else None
