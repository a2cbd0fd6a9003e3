"""The LoRAs to choose from, as an editor shows them: all ids at once, then what is known of those in sight."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import RylaError
from . import families
from .inspect import inspect
from .store import LoraFile, LoraStore

MOST_DETAILS = 200
THUMBNAIL = 192
_BESIDE = (".preview.png", ".png", ".preview.jpg", ".jpg", ".preview.jpeg", ".jpeg", ".preview.webp", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")


def every(store: LoraStore) -> list[dict[str, str]]:
    """Each LoRA's ``id``, to be written as ``lora_id``, and its ``file`` below its folder.

    Where several files answer to an id, it is the file's name. No file is opened.
    """
    ids = {file.name: file.id for file in store.list()}  # Of two files of one name, the first folder's is found.
    count = Counter(lora_id.casefold() for lora_id in ids.values())
    return [{"id": each if count[each.casefold()] == 1 else name, "file": name} for name, each in ids.items()]


def details(store: LoraStore, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By id: ``family``, ``families`` (all that its layers fit), ``title``, ``trigger``, ``picture``; or ``error``.

    ``picture`` tells one sample picture from another, "" when there is none.
    """
    return {lora_id: _detail(store, lora_id) for lora_id in ids}


def thumbnail(store: LoraStore, lora_id: str) -> bytes | None:
    """The sample picture of a LoRA as a small WebP; None when there is no such LoRA, or no picture that can be read."""
    from PIL import Image

    from .. import pictures

    path = _picture(store, store.find(lora_id)) if store.has(lora_id) else None
    if path is None:
        return None
    out = io.BytesIO()
    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            pictures.rgb(image).save(out, "WEBP", quality=80)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, RylaError):
        return None
    return out.getvalue()


def _detail(store: LoraStore, lora_id: str) -> dict[str, Any]:
    if not store.has(lora_id):  # Nothing is fetched for it, as for one that a job needs.
        return {"error": "There is no file of this id (any more)."}
    try:
        file = store.find(lora_id)
        info = inspect(file.path)
    except RylaError as error:
        return {"error": error.message}
    path = _picture(store, file)
    return {
        "family": info.family,
        "families": info.possible_families,
        "title": families.title(info.family),
        "trigger": info.trigger_word or "",
        "picture": str(path.stat().st_mtime_ns) if path else "",
    }


def _picture(store: LoraStore, file: LoraFile) -> Path | None:
    """The sample picture beside a LoRA: ``anna.preview.png`` or ``anna.png``; one that links out is not followed."""
    return next((path for path in _candidates(file.path) if path.is_file() and store.inside(path)), None)


def _candidates(lora: Path) -> Iterator[Path]:
    return (lora.with_name(f"{lora.stem}{ending}") for ending in _BESIDE)
