"""The model files of a workflow as the editor knows them: name, folder, digest, and where to download them freely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ryla_nodes.models import catalogue
from ryla_nodes.models.catalogue import HubSource, ModelEntry

# What the editor of the oldest ComfyUI offers to download; it shows an error in the place of any other.
_DOWNLOADED = (".safetensors", ".sft")
# By node class: the files of the catalogue that may stand in its lists.
_CHOICES = {
    "RYLA_FluxLoader": ("flux1-dev-fp8",),
    "RYLA_SDXLLoader": ("realvisxl-v5", "juggernaut-xi", "sdxl-base"),
    "RYLA_InstantIDLoader": ("instantid-controlnet",),
}


def entries(models: Iterable[str]) -> list[ModelEntry]:
    """The catalogue's entries of some ids."""
    known = catalogue.load()
    return [known.get(model) for model in models]


def of_node(kind: str) -> list[dict[str, str]]:
    """What a node's ``properties.models`` holds."""
    return list(downloads(_CHOICES.get(kind, ())))


def downloads(models: Iterable[str]) -> Iterator[dict[str, str]]:
    """Those models that the editor can offer: one file each, in a format that it allows, asked of no account."""
    for entry in entries(models):
        source = _open_source(entry)
        if source is not None and entry.filename.endswith(_DOWNLOADED):
            found = {"name": entry.filename, "url": _url(source), "directory": entry.folder}
            yield {**found, **({"hash": entry.sha256, "hash_type": "SHA256"} if entry.sha256 else {})}


def gated(models: Iterable[str]) -> list[ModelEntry]:
    """Those that an account has to be given access to."""
    return [entry for entry in entries(models) if entry.gated and _open_source(entry) is None]


def _open_source(entry: ModelEntry) -> HubSource | None:
    sources = catalogue.sources_of(entry, catalogue.load())
    return next((item for item in sources if isinstance(item, HubSource) and not item.gated), None)


def _url(source: HubSource) -> str:
    return f"https://huggingface.co/{source.repo}/resolve/{source.revision or 'main'}/{source.path}"
