"""Make a volume's files visible in a ComfyUI that does not have this pack: by links, or by its yaml file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import RylaError
from ..files import write_whole
from . import workspace
from .folders import at_root

KEPT, LINKED, REPAIRED, HARD_LINKED, BLOCKED = "kept", "linked", "repaired", "hard_linked", "blocked"

_BEGIN = "# >>> ryla: written by `ryla models link --yaml`, replaced as a whole"
_END = "# <<< ryla"


@dataclass(frozen=True)
class Link:
    """What happened to one file: kept, linked, repaired, hard_linked, or blocked by a file that is not ours."""

    place: Path
    source: Path
    state: str

    def as_dict(self) -> dict[str, object]:
        """The public JSON form."""
        return {"state": self.state, "path": self.place, "source": self.source}


def link_files(volume: Path, comfyui: Path, names: Iterable[tuple[str, str]] | None = None) -> list[Link]:
    """Link the volume's files into ``comfyui/models``; run again it changes nothing that is right.

    Stale links (to nothing, or to another place in the volume) are replaced; a real file, or somebody else's link,
    never is.

    Args:
        names: (folder, file name) pairs; all model files of the volume when None.

    Raises:
        RylaError: ``link_refused`` where neither symbolic nor hard links are allowed.
    """
    folders = at_root(volume)
    every = ((folder, name) for folder in folders.paths for name in folders.list(folder))
    links = []
    for folder, name in names if names is not None else every:
        source = folders.find(folder, name)
        if source is not None:
            links.append(_link(source, comfyui / "models" / folder / name, volume))
    return links


def _link(source: Path, place: Path, volume: Path) -> Link:
    if place.is_symlink() and _points_to(place, source):
        return Link(place, source, KEPT)
    if place.exists() and place.samefile(source):
        return Link(place, source, KEPT)
    stale = place.is_symlink() and (not place.exists() or _leads_into(place, volume))
    if not stale and (place.exists() or place.is_symlink()):
        return Link(place, source, BLOCKED)
    place.parent.mkdir(parents=True, exist_ok=True)
    if stale:
        place.unlink()
    made = _make(source, place)
    return Link(place, source, REPAIRED if stale and made == LINKED else made)


def _make(source: Path, place: Path) -> str:
    try:
        place.symlink_to(source.absolute())
        return LINKED
    except OSError:
        # Windows without the privilege, or a file system without symbolic links.
        try:
            os.link(source, place)
            return HARD_LINKED
        except OSError as error:
            raise RylaError(
                "link_refused", f"{place} cannot be linked to {source}: {error.strerror}.", path=place
            ) from error


def _points_to(link: Path, source: Path) -> bool:
    return link.exists() and link.samefile(source)


def _leads_into(link: Path, volume: Path) -> bool:
    return link.resolve().is_relative_to(volume.resolve())


def write_yaml(volume: Path, comfyui: Path) -> tuple[Path, bool]:
    """Put the volume's folders into the ComfyUI's ``extra_model_paths.yaml``; the rest of the file stays as it is.

    Returns:
        The file, and whether it changed.

    Raises:
        RylaError: ``invalid_model_paths`` when the file is already broken: it is left alone.
    """
    file = comfyui / "extra_model_paths.yaml"
    workspace.extra_model_paths(file)
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    after = _without_block(before) + _block(volume)
    if after != before:
        write_whole(file, after.encode())
    return file, after != before


def _without_block(text: str) -> str:
    start, end = text.find(_BEGIN), text.find(_END)
    if start >= 0 and end > start:
        text = text[:start] + text[end + len(_END) :].lstrip("\n")
    return text if not text or text.endswith("\n") else f"{text}\n"


def _block(volume: Path) -> str:
    import yaml

    root = volume.absolute()
    section: dict[str, str] = {"base_path": str(root)}
    for folder, paths in at_root(root).paths.items():
        there = [path.relative_to(root).as_posix() for path in paths if path.is_dir()]
        if there:
            section[folder] = "\n".join(there)
    body = yaml.safe_dump({"ryla_volume": section}, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return f"{_BEGIN}\n{body}{_END}\n"
