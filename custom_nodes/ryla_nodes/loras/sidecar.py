"""The ``<file>.json`` beside a LoRA: what the file itself does not say; from ``ryla loras add`` or another tool."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RylaError
from .metadata import clean_trigger

_MAX_BYTES = 1_000_000
_TRIGGER_FIELDS = (
    "trigger_word",
    "trigger_words",
    "trigger",
    "triggerWord",
    "triggerWords",
    "trigger_phrase",
    "activation text",
    "trainedWords",
    "instance_prompt",
)
_BASE_FIELDS = ("base_model", "baseModel", "sd version")


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says; empty strings where it says nothing."""

    path: Path
    trigger_word: str
    base_model: str


def path_of(lora: Path) -> Path:
    """Where the sidecar of ``7.safetensors`` is written: ``7.json`` in the same folder."""
    return lora.with_suffix(".json")


def names(lora: Path) -> tuple[Path, Path]:
    """Where a sidecar is looked for, in order."""
    return path_of(lora), lora.with_name(f"{lora.name}.json")


def read(lora: Path) -> Sidecar | None:
    """The sidecar of a LoRA file: ``7.json``, else ``7.safetensors.json``; None when there is none.

    Raises:
        RylaError: ``invalid_sidecar`` when it is not a JSON object, or its trigger word is not text.
    """
    for path in names(lora):
        if path.is_file():
            fields = _load(path)
            trigger = clean_trigger(_text(path, fields, _TRIGGER_FIELDS))
            return Sidecar(path, trigger, _text(path, fields, _BASE_FIELDS).strip())
    return None


def to_json(fields: dict[str, Any]) -> str:
    """The text of a sidecar file."""
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _invalid(path, f"it is larger than {_MAX_BYTES:,} bytes")
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _invalid(path, f"it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"it is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise _invalid(path, "it is not a JSON object")
    civitai = fields.get("civitai")
    return {**(civitai if isinstance(civitai, dict) else {}), **fields}


def _text(path: Path, fields: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            value = ", ".join(value)
        if value is not None and not isinstance(value, str):
            raise _invalid(path, f"{name!r} is {value!r}, not text")
        if value:
            return value
    return ""


def _invalid(path: Path, why: str) -> RylaError:
    return RylaError("invalid_sidecar", f"{path} is not a LoRA's sidecar: {why}.", path=path)
