"""What decides the picture of a job: its graph, the bytes of its photos and of its LoRAs, its seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import files
from ..errors import RylaError
from ..loras import stack
from ..loras.store import LoraStore
from ..models import folders
from ..settings import Settings
from ..workflows.graph import Graph
from ..workflows.workflow import BoundPrompt

_LORA_INPUTS = ("lora_id", "lora_name")


@dataclass(frozen=True)
class Fingerprint:
    """What a picture was, or is to be, made of.

    Attributes:
        job: the digest of the graph (titles left out, the seed in it) with the SHA-256 of each photo in its place; ""
            when a journal does not say.
        loras: the SHA-256 of each LoRA by the name that the graph has for it; without those that are not here.
    """

    job: str
    loras: Mapping[str, str] = field(default_factory=dict)

    def same(self, other: Fingerprint) -> bool:
        """Whether both make the same picture; a LoRA that was not here at one of the times is taken for the same."""
        both = self.loras.keys() & other.loras.keys()
        return bool(self.job) and self.job == other.job and all(self.loras[name] == other.loras[name] for name in both)


class Fingerprints:
    """Takes fingerprints; every file is read once."""

    def __init__(self, settings: Settings) -> None:
        self._store = LoraStore(folders.standalone(settings).get("loras"), None, settings.lora_roots)
        self._files: dict[Path, str] = {}
        self._loras: dict[str, str] = {}

    def sealed(self, prompt: BoundPrompt) -> BoundPrompt:
        """The prompt with the digest of each photo: another one's bytes are then not uploaded for it.

        Raises:
            RylaError: ``unreadable_file``.
        """
        uploads = tuple(replace(upload, sha256=self._photo(upload.path)) for upload in prompt.uploads)
        return replace(prompt, uploads=uploads)

    def of(self, prompt: BoundPrompt) -> Fingerprint:
        """The fingerprint of a ``sealed`` prompt."""
        photos = {(upload.node_id, upload.input): upload.sha256 for upload in prompt.uploads}
        nodes = {key: _node(key, node, photos) for key, node in prompt.graph.items()}
        chosen = {"best_of": len(prompt.best_of.seeds)} if prompt.best_of else {}
        text = json.dumps({**nodes, **chosen}, sort_keys=True, default=str)
        loras = {name: digest for name in sorted(set(_loras(prompt.graph))) if (digest := self._lora(name))}
        return Fingerprint(hashlib.sha256(text.encode()).hexdigest(), loras)

    def _photo(self, path: Path) -> str:
        if path not in self._files:
            try:
                self._files[path] = files.sha256(path)
            except OSError as error:
                message = f"{path} cannot be read: {error.strerror}."
                raise RylaError("unreadable_file", message, path=str(path)) from error
        return self._files[path]

    def _lora(self, name: str) -> str:
        """The digests of the LoRAs that ``name`` stands for; "" when one is not on this machine, or none is meant."""
        if name not in self._loras:
            try:
                parts = stack.parse(name, self._store.has)
                self._loras[name] = "+".join(files.sha256(self._store.find(part.id).path) for part in parts)
            except (RylaError, OSError):
                self._loras[name] = ""  # An engine elsewhere may have it.
        return self._loras[name]


def _node(key: str, node: Mapping[str, Any], photos: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    inputs = {name: photos.get((key, name), value) for name, value in node["inputs"].items()}
    return {**{name: value for name, value in node.items() if name != "_meta"}, "inputs": inputs}


def _loras(graph: Graph) -> Iterator[str]:
    for node in graph.values():
        for name in _LORA_INPUTS:
            value = node["inputs"].get(name)
            if isinstance(value, str) and value.strip():
                yield value
