"""Model files as ComfyUI's editor lists them: name, folder, digest, and where each can be downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import catalogue
from .catalogue import HubSource, ModelEntry

# What the editor of the oldest ComfyUI offers to download; it shows an error in the place of any other.
_OFFERED = (".safetensors", ".sft")


def files(entries: Iterable[ModelEntry]) -> Iterator[dict[str, str]]:
    """Every file of ``entries`` that is needed, with its address where a hub has it, be it behind a licence."""
    known = catalogue.load()
    for part in dict.fromkeys(part for entry in entries for part in known.files(entry)):
        if not part.optional:
            yield _file(part, _source(part, gated=False) or _source(part, gated=True))


def offered(entries: Iterable[ModelEntry]) -> list[dict[str, str]]:
    """Those models that every editor can offer: one file each, in a format that it allows, asked of no account."""
    free = ((entry, _source(entry, gated=False)) for entry in entries if entry.filename.endswith(_OFFERED))
    return [_file(entry, source) for entry, source in free if source is not None]


def is_gated(entry: ModelEntry) -> bool:
    """Whether an account has to be given access to the file, wherever it is taken from."""
    return entry.gated and _source(entry, gated=False) is None


def _source(entry: ModelEntry, *, gated: bool) -> HubSource | None:
    sources = catalogue.sources_of(entry, catalogue.load())
    return next((item for item in sources if isinstance(item, HubSource) and item.gated is gated), None)


def _file(entry: ModelEntry, source: HubSource | None) -> dict[str, str]:
    told = {"name": entry.filename, "url": _address(source) if source else "", "directory": entry.folder}
    digest = {"hash": entry.sha256, "hash_type": "SHA256"} if entry.sha256 else {}
    return {name: value for name, value in {**told, **digest}.items() if value}


def _address(source: HubSource) -> str:
    return f"https://huggingface.co/{source.repo}/resolve/{source.revision or 'main'}/{source.path}"
