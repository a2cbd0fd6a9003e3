"""The model folders of a ComfyUI and of the volume, and where a file is in them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from ..files import MODEL_SUFFIXES, is_companion
from ..settings import Settings
from . import workspace

_LISTED = frozenset(MODEL_SUFFIXES) - {".gguf", ".pickle"}  # As ComfyUI lists them.
_LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}
# ComfyUI's folders that are searched in more places than models/<name>, in its order.
_SEVERAL = {
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("unet", "diffusion_models"),
    "controlnet": ("controlnet", "t2i_adapter"),
}
_NAMES = (
    "checkpoints",
    "clip_vision",
    "controlnet",
    "diffusion_models",
    "insightface",
    "instantid",
    "loras",
    "text_encoders",
    "tokenizers",
    "vae",
)


def canonical(folder: str) -> str:
    """ComfyUI's present name of a folder: ``unet`` is ``diffusion_models``, ``clip`` is ``text_encoders``."""
    return _LEGACY.get(folder, folder)


@dataclass(frozen=True)
class ModelFolders:
    """Model folder names and the paths behind each, in search order. Immutable; paths need not exist."""

    paths: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        merged: dict[str, tuple[Path, ...]] = {}
        for name, paths in self.paths.items():
            merged[canonical(name)] = _unique((*merged.get(canonical(name), ()), *paths))
        object.__setattr__(self, "paths", MappingProxyType(merged))

    def get(self, folder: str) -> tuple[Path, ...]:
        """The paths of ``folder`` (legacy names too), in search order; empty for an unknown one."""
        return self.paths.get(canonical(folder), ())

    def every(self) -> tuple[Path, ...]:
        """The paths of all folders, each once."""
        return tuple(dict.fromkeys(path for paths in self.paths.values() for path in paths))

    def find(self, folder: str, filename: str) -> Path | None:
        """The first file or directory called ``filename`` (relative, ``/`` or ``\\``) in ``folder``, or None.

        Like ComfyUI's own lookup it never leaves the folder: ``..`` and absolute names find nothing. A name in another
        case or form (a disk that was filled on Windows or macOS) is found where the exact one is nowhere.
        """
        relative = PurePosixPath(filename.replace("\\", "/"))
        if relative.is_absolute() or ".." in relative.parts or relative.parts in ((), (".",)):
            return None
        candidates = [root / relative for root in self.get(folder)]
        exact = next((path for path in candidates if path.exists()), None)
        return exact or next(filter(None, (_other_case(root, relative) for root in self.get(folder))), None)

    def find_name(self, folder: str, name: str) -> Path | None:
        """The first file with the base name ``name`` anywhere below ``folder``, the shallowest first, or None.

        One whose name is in another case is taken where none has the exact one.
        """
        alike = [[path for path in _walk(root) if path.name.casefold() == name.casefold()] for root in self.get(folder)]
        exact = [[path for path in paths if path.name == name] for paths in alike]
        hits = next(filter(None, (*exact, *alike)), [])
        return min(hits, key=lambda path: (len(path.parts), path), default=None)

    def list(self, folder: str) -> list[str]:
        """All model files below ``folder``: sorted names relative to their root, with ``/``."""
        names = {
            path.relative_to(root).as_posix()
            for root in self.get(folder)
            for path in _walk(root)
            if path.suffix.lower() in _LISTED and not is_companion(path.name)
        }
        return sorted(names)

    def with_root(self, root: Path, *, first: bool = False) -> ModelFolders:
        """A copy that searches ``root``, laid out like ComfyUI's ``models/``, too: last, or first."""
        return self.merged(at_root(root, self.paths), first=first)

    def merged(self, other: ModelFolders, *, first: bool = False) -> ModelFolders:
        """A copy with the paths of ``other`` behind its own, or before them with ``first``."""
        front, back = (other, self) if first else (self, other)
        names = dict.fromkeys((*front.paths, *back.paths))
        return ModelFolders({name: (*front.get(name), *back.get(name)) for name in names})


def at_root(root: Path, extra_names: Iterable[str] = ()) -> ModelFolders:
    """The folders of ``root``, laid out like ComfyUI's ``models/``; its sub-folders count under their own names."""
    own = _subfolders(root)
    names = dict.fromkeys(canonical(name) for name in (*_NAMES, *extra_names, *own))
    aliases = {name for several in _SEVERAL.values() for name in several}
    wanted = [name for name in names if name in _SEVERAL or name not in aliases]
    return ModelFolders({name: _places(root, _SEVERAL.get(name, (name,)), own) for name in wanted})


def _places(root: Path, names: tuple[str, ...], own: Sequence[str]) -> tuple[Path, ...]:
    """The paths of a folder; also those that are there in another case, such as ``VAE`` and ``Loras``."""
    wanted = {name.casefold() for name in names}
    others = (root / name for name in own if name not in names and name.casefold() in wanted)
    exact = [root / name for name in names]
    return (*exact, *(path for path in others if not any(_is_same(path, known) for known in exact)))


def _is_same(first: Path, second: Path) -> bool:
    return second.exists() and first.samefile(second)


def _other_case(root: Path, relative: PurePosixPath) -> Path | None:
    """The path below ``root`` whose parts are those of ``relative`` but for their case, or None."""
    path = root
    for part in relative.parts:
        names = path.iterdir() if path.is_dir() else ()
        found = next((entry for entry in sorted(names) if _folded(entry.name) == _folded(part)), None)
        if found is None:
            return None
        path = found
    return path


def _folded(name: str) -> str:
    """A name without its case, and with its accents as one letter each: macOS writes them apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _subfolders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def standalone(settings: Settings) -> ModelFolders:
    """The folders outside ComfyUI: the volume first, then the ComfyUI workspace with its ``extra_model_paths.yaml``.

    Raises:
        RylaError: ``invalid_model_paths`` for a yaml file that ComfyUI would not start with.
    """
    folders = ModelFolders({})
    if settings.volume:
        folders = at_root(settings.volume)
    comfyui = settings.comfyui or workspace.discover()
    return folders.merged(of_comfyui(comfyui)) if comfyui else folders


def of_comfyui(comfyui: Path) -> ModelFolders:
    """The folders of the ComfyUI in ``comfyui``: its ``models/`` and its ``extra_model_paths.yaml``."""
    folders = at_root(comfyui / "models")
    for extra in workspace.extra_model_paths(comfyui / "extra_model_paths.yaml"):
        folders = folders.merged(ModelFolders({extra.folder: (extra.path,)}), first=extra.is_default)
    return folders


def _walk(root: Path) -> Iterator[Path]:
    """All files below ``root``, links followed, each real directory once, ``.git`` left out (as ComfyUI does)."""
    seen: set[str] = set()
    for current, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if name != ".git")
        yield from (Path(current, name) for name in sorted(files))


def _unique(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(Path(os.path.normpath(path)) for path in paths))
