"""The model files of a workflow, and those that may stand in the lists of a node."""

from __future__ import annotations

from collections.abc import Iterable

from ryla_nodes.models import catalogue, editor_files
from ryla_nodes.models.catalogue import ModelEntry

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
    return downloads(_CHOICES.get(kind, ()))


def downloads(models: Iterable[str]) -> list[dict[str, str]]:
    """What every editor can offer to download of some ids."""
    return editor_files.offered(entries(models))


def gated(models: Iterable[str]) -> list[ModelEntry]:
    """Those that an account has to be given access to."""
    return [entry for entry in entries(models) if editor_files.is_gated(entry)]
