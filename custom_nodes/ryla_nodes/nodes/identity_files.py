"""Which files of SDXL and InstantID are meant: those of the catalogue, or the only one of its kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import host
from ..errors import RylaError
from ..host.identity import StandIns, backend
from ..models import resolve
from ..models.folders import ModelFolders
from ..models.headers import read_header
from ..models.identify import FileKind, identify

AUTO = "auto"


def checkpoint(name: str) -> Path:
    """The SDXL checkpoint ``name``, or with ``auto`` RealVisXL V5.0, SDXL base, or the only SDXL checkpoint."""
    return _choose("checkpoints", name, "realvisxl-v5", FileKind.SDXL_CHECKPOINT, lambda own: own.checkpoint)


def adapter(name: str) -> Path:
    """InstantID's adapter ``name``, or with ``auto`` the catalogue's or the only one."""
    return _choose("instantid", name, "instantid-adapter", FileKind.INSTANTID_ADAPTER, lambda own: own.adapter)


def control_net(name: str) -> Path:
    """InstantID's ControlNet ``name``, or with ``auto`` the catalogue's or the only SDXL one in diffusers' format."""
    kind = FileKind.CONTROLNET_SDXL_INSTANTID
    return _choose("controlnet", name, "instantid-controlnet", kind, lambda own: own.control_net)


def insightface() -> tuple[Path, ...]:
    """The folders to look for face models in: the engine's, and behind them its own small ones."""
    own = backend().stand_ins()
    return (*host.current().folders().get("insightface"), *([own.insightface] if own else ()))


def only_small_sdxl() -> bool:
    """Whether the engine has a small SDXL of its own, and no other."""
    own = backend().stand_ins()
    folders, kind = host.current().folders(), FileKind.SDXL_CHECKPOINT
    return own is not None and not _of_kind(folders, "checkpoints", kind, own.checkpoint)


def _choose(folder: str, name: str, model_id: str, kind: FileKind, stand_in: Callable[[StandIns], Path]) -> Path:
    """Raises ``missing_model``, and ``ambiguous_model`` when several unknown files would do."""
    folders = host.current().folders()
    if name != AUTO:
        path = folders.find(folder, name)
        if path is None:
            line = f"{name} is not there. Searched: {', '.join(map(str, folders.get(folder)))}."
            raise RylaError("missing_model", line, hint=f"ryla models install {model_id}")
        return path
    own = backend().stand_ins()
    try:
        return resolve.resolve(model_id, folders)
    except RylaError as error:
        if error.code != "missing_model":
            raise
        hits = _of_kind(folders, folder, kind, None if own is None else stand_in(own))
        if not hits and own is None:
            raise
    if len(hits) > 1:
        line = f"{len(hits)} files are {kind.description}: {', '.join(map(str, hits))}."
        raise RylaError("ambiguous_model", line, hint="Name one of them, or keep only one.")
    if hits or own is None:
        return hits[0]
    return stand_in(own)


def _of_kind(folders: ModelFolders, folder: str, kind: FileKind, ignored: Path | None) -> list[Path]:
    paths = (folders.find(folder, name) for name in folders.list(folder))
    return [path for path in paths if path is not None and path != ignored and _is(path, kind)]


def _is(path: Path, kind: FileKind) -> bool:
    """A broken file is of no kind here: it only matters when it is asked for by name."""
    try:
        return identify(read_header(path)) is kind
    except RylaError:
        return False
