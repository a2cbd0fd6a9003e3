"""The files beside a LoRA that say what it does not: ours, those of other tools, PEFT's configuration, a model card.

``<file>.json`` is written by ``ryla loras add`` and AUTOMATIC1111; the others by the Civitai helpers, ComfyUI's LoRA
Manager, StabilityMatrix, rgthree's nodes and SwarmUI.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import RylaError
from ..files import is_companion, is_settled

ADAPTER_CONFIG = "adapter_config.json"
MODEL_CARD = "README.md"

_MAX_BYTES = 1_000_000
_FOREIGN = (".civitai.info", ".metadata.json", ".cm-info.json", ".rgthree-info.json", ".swarm.json")


@dataclass(frozen=True)
class Sidecar:
    """A file beside a LoRA and its fields. ``own``: a mistake in it is an error, and not another tool's affair."""

    path: Path
    fields: Mapping[str, Any]
    own: bool = False


def path_of(lora: Path) -> Path:
    """Where the sidecar of ``7.safetensors`` is written: ``7.json`` in the same folder."""
    return lora.with_suffix(".json")


def names(lora: Path) -> tuple[Path, Path]:
    """Where our own sidecar is looked for, in order."""
    return path_of(lora), lora.with_name(f"{lora.name}.json")


def own(lora: Path) -> Sidecar | None:
    """Our own sidecar of a LoRA file: ``7.json``, else ``7.safetensors.json``; None when there is none.

    Raises:
        RylaError: ``invalid_sidecar`` when it is not a JSON object.
    """
    return next(_own(lora), None)


def read(lora: Path) -> tuple[Sidecar, ...]:
    """Everything beside a LoRA file that tells about it, the most telling first.

    PEFT's ``adapter_config.json`` and a model card are about the folder: they count for the only LoRA in it.

    Raises:
        RylaError: ``invalid_sidecar`` when our own is not a JSON object. What another tool wrote badly is left out.
    """
    there = _names_in(lora.parent)
    found = [*_own(lora)]
    candidates = [f"{name}{ending}" for ending in _FOREIGN for name in (lora.stem, lora.name)]
    if sum(name.casefold().endswith(".safetensors") and not is_companion(name) for name in there) == 1:
        candidates += [ADAPTER_CONFIG, MODEL_CARD]
    for name in candidates:
        fields = _lenient(lora.with_name(name)) if name in there else None
        if fields:
            found.append(Sidecar(lora.with_name(name), fields))
    return tuple(found)


def to_json(fields: dict[str, Any]) -> str:
    """The text of a sidecar file."""
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def invalid(path: Path, why: str) -> RylaError:
    """The error for a sidecar of ours."""
    return RylaError("invalid_sidecar", f"{path} is not a LoRA's sidecar: {why}.", path=path)


def _own(lora: Path) -> Iterator[Sidecar]:
    for path in names(lora):
        if path.is_file():
            status = path.stat()
            yield Sidecar(path, _strict(path, status.st_mtime_ns, status.st_size), own=True)
            return


@lru_cache(maxsize=4096)
def _strict(path: Path, _mtime_ns: int, size: int) -> Mapping[str, Any]:
    if size > _MAX_BYTES:
        raise invalid(path, f"it is larger than {_MAX_BYTES:,} bytes")
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise invalid(path, f"it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise invalid(path, f"it is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise invalid(path, "it is not a JSON object")
    return _flattened(fields)


def _lenient(path: Path) -> Mapping[str, Any] | None:
    try:
        status = path.stat()
        return _foreign(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _foreign(path: Path, _mtime_ns: int, size: int) -> Mapping[str, Any] | None:
    if size > _MAX_BYTES:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        fields = _front_matter(text) if path.name == MODEL_CARD else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _flattened(fields) if isinstance(fields, dict) else None


def _front_matter(text: str) -> Any:
    """The YAML between the first two ``---`` lines of a model card, as the hub reads it."""
    import yaml

    parts = text.split("\n---", 1)
    if not text.startswith("---\n") or len(parts) != 2:
        return None
    try:
        return yaml.safe_load(parts[0][4:])
    except yaml.YAMLError:
        return None


def _flattened(fields: dict[str, Any]) -> dict[str, Any]:
    """``fields`` with those of Civitai's own object, which some tools keep inside theirs."""
    civitai = fields.get("civitai")
    return {**(civitai if isinstance(civitai, dict) else {}), **fields}


def _names_in(folder: Path) -> frozenset[str]:
    """The names in a folder; read again when it changed, and once a minute for mounts that do not tell."""
    try:
        mtime_ns = folder.stat().st_mtime_ns
        stamp = int(time.monotonic() / 60) if is_settled(mtime_ns) else time.monotonic_ns()
        return _listed(folder, mtime_ns, stamp)
    except OSError:
        return frozenset()


@lru_cache(maxsize=64)
def _listed(folder: Path, _mtime_ns: int, _stamp: int) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())
