"""The small trained models that come with the package, laid out like ComfyUI's ``models/``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import RylaError
from . import catalogue as catalogues
from .catalogue import ModelEntry
from .folders import ModelFolders, at_root
from .identify import examine

ROOT = Path(__file__).resolve().parents[1] / "engines" / "embedded" / "paint"
FLUX = ("ryla-paint-flux", "ryla-paint-clip_l", "ryla-paint-t5xxl", "ryla-paint-ae")
"""Transformer, CLIP-L, T5 and VAE: all that paints."""
IDENTITY = ("ryla-paint-sdxl", "ryla-paint-ip-adapter", "ryla-paint-instantid")
"""SDXL's checkpoint, InstantID's adapter and its ControlNet."""
SOURCE = "shipped with the package"
_ELSEWHERE = (
    "Run in a ComfyUI with real weights (--server URL); or clone the repository, which has the small ones: "
    "git clone https://github.com/ryla-nodes/ryla-nodes"
)


def folders() -> ModelFolders:
    """Their folders."""
    return at_root(ROOT)


def path(model_id: str) -> Path:
    """Where the package holds the file of a shipped model."""
    entry = catalogues.load().get(model_id)
    return ROOT / entry.folder / entry.filename


def insightface() -> Path:
    """The folder of the face models, which have the names of antelopev2's: nobody looks for those in there."""
    return ROOT / "insightface" / "ryla-paint"


def included() -> bool:
    """Whether this copy of the package has them at all: the ComfyUI registry's archive leaves all of them out."""
    return ROOT.is_dir()


def holds(file: Path) -> bool:
    """Whether ``file`` is one of the package's own."""
    return file.is_relative_to(ROOT)


def require() -> None:
    """Check that every shipped file is whole, by size and header; ``ryla models check`` reads all of its bytes.

    Raises:
        RylaError: ``damaged_package`` naming the first that is not.
    """
    for entry in catalogues.load():
        if entry.shipped:
            _require(entry, path(entry.id))


def _require(entry: ModelEntry, file: Path) -> None:
    try:
        if not file.is_file():
            examine(file)
        state = file.stat()
        _examine_once(file, state.st_size, state.st_mtime_ns)
        if state.st_size == entry.size:
            return
        why = f"{file} has {state.st_size:,} bytes, not {entry.size:,}."
    except RylaError as error:
        why = error.message
    raise damaged(file, why)


@lru_cache(maxsize=64)
def _examine_once(file: Path, size: int, changed: int) -> None:
    """Every job asks several times; a file is read again when its ``size`` or time of change is another."""
    examine(file)


def damaged(file: Path, why: str, **details: Any) -> RylaError:
    """The error about a shipped ``file`` that is missing or not itself."""
    if not included():
        message = f"This copy of ryla-nodes leaves out the embedded engine's small models: there is no {ROOT}."
        return RylaError("damaged_package", message, hint=_ELSEWHERE, path=file, **details)
    return RylaError(
        "damaged_package",
        f"A model that ships with ryla-nodes is not whole: {why}",
        hint="git lfs pull" if "Git LFS" in why else "",
        path=file,
        **details,
    )
