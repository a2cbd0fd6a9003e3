"""Where the bytes of a catalogue file can be had, in the order to try."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import RylaError
from .catalogue import Archive, Catalogue, ModelEntry


@dataclass(frozen=True)
class HubSource:
    """A file of a Hugging Face repository; ``revision`` None is its main branch."""

    repo: str
    path: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}"


@dataclass(frozen=True)
class UrlSource:
    """A plain ``https://`` file."""

    url: str

    def __str__(self) -> str:
        return self.url


Source = HubSource | UrlSource


def of_entry(entry: ModelEntry, catalogue: Catalogue) -> list[Source]:
    """The entry's repository, its mirrors, then those of alternatives with the very same bytes."""
    twins = [catalogue.get(name) for name in entry.alternatives]
    same = [entry, *(twin for twin in twins if twin.sha256 is not None and twin.sha256 == entry.sha256)]
    found: list[Source] = []
    for item in same:
        found += [HubSource(item.repo, item.path, item.revision)] if item.repo else []
        found += [parse(mirror) for mirror in item.mirrors]
    return list(dict.fromkeys(found))


def of_archive(archive: Archive) -> list[Source]:
    """The places of an archive."""
    return [parse(url) for url in archive.urls]


def parse(text: str) -> Source:
    """``hf://owner/repo[@revision]/path`` or a ``http(s)://`` URL.

    Raises:
        RylaError: ``invalid_catalogue``.
    """
    parts = urlsplit(text)
    if parts.scheme in ("http", "https") and parts.netloc:
        return UrlSource(text)
    names = text.removeprefix("hf://").split("/", 2)
    if parts.scheme != "hf" or len(names) != 3:
        raise RylaError("invalid_catalogue", f"{text!r} is neither hf://owner/repo/path nor a http(s) URL.")
    name, _, revision = names[1].partition("@")
    return HubSource(f"{names[0]}/{name}", names[2], revision or None)
