"""Which files of SDXL and InstantID are meant: those of the catalogue, or the only one of its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import RylaError
from . import resolve
from .folders import ModelFolders
from .headers import read_header
from .identify import FileKind, identify

AUTO = "auto"


@dataclass(frozen=True)
class IdentityFiles:
    """The files of one SDXL with InstantID; ``insightface`` is a folder of face models."""

    checkpoint: Path
    adapter: Path
    control_net: Path
    insightface: Path


@dataclass(frozen=True)
class IdentitySearch:
    """The search for them in ``folders``; ``own`` (the engine's small models) is taken where nothing else is there.

    Names are those of files in their folder, or ``auto``. Every search raises ``missing_model``, and
    ``ambiguous_model`` when several unknown files would do.
    """

    folders: ModelFolders
    own: IdentityFiles | None = None

    def checkpoint(self, name: str) -> Path:
        """The SDXL checkpoint ``name``, or with ``auto`` RealVisXL V5.0, SDXL base, or the only SDXL checkpoint."""
        return self._choose("checkpoints", name, "realvisxl-v5", FileKind.SDXL_CHECKPOINT, lambda own: own.checkpoint)

    def adapter(self, name: str) -> Path:
        """InstantID's adapter ``name``, or with ``auto`` the catalogue's or the only one."""
        return self._choose("instantid", name, "instantid-adapter", FileKind.INSTANTID_ADAPTER, lambda own: own.adapter)

    def control_net(self, name: str) -> Path:
        """InstantID's ControlNet ``name``, or with ``auto`` the catalogue's or the only SDXL one of diffusers' form."""
        kind = FileKind.CONTROLNET_SDXL_INSTANTID
        return self._choose("controlnet", name, "instantid-controlnet", kind, lambda own: own.control_net)

    def insightface(self) -> tuple[Path, ...]:
        """The folders to look for face models in, the engine's own small ones last."""
        return (*self.folders.get("insightface"), *([self.own.insightface] if self.own else ()))

    def only_own_checkpoint(self) -> bool:
        """Whether the engine has a small SDXL of its own, and no other."""
        own = self.own
        return own is not None and not self._of_kind("checkpoints", FileKind.SDXL_CHECKPOINT, own.checkpoint)

    def _choose(
        self, folder: str, name: str, model_id: str, kind: FileKind, part: Callable[[IdentityFiles], Path]
    ) -> Path:
        if name != AUTO:
            return self._named(folder, name, model_id)
        own = None if self.own is None else part(self.own)
        try:
            return resolve.resolve(model_id, self.folders)
        except RylaError as error:
            if error.code != "missing_model":
                raise
            hits = self._of_kind(folder, kind, own)
            if not hits and own is None:
                raise
        if len(hits) > 1:
            line = f"{len(hits)} files are {kind.description}: {', '.join(map(str, hits))}."
            raise RylaError("ambiguous_model", line, hint="Name one of them, or keep only one.")
        return hits[0] if hits or own is None else own

    def _named(self, folder: str, name: str, model_id: str) -> Path:
        path = self.folders.find(folder, name)
        if path is None:
            line = f"{name} is not there. Searched: {', '.join(map(str, self.folders.get(folder)))}."
            raise RylaError("missing_model", line, hint=f"ryla models install {model_id}")
        return path

    def _of_kind(self, folder: str, kind: FileKind, ignored: Path | None) -> list[Path]:
        paths = (self.folders.find(folder, name) for name in self.folders.list(folder))
        return [path for path in paths if path is not None and path != ignored and _is(path, kind)]


def _is(path: Path, kind: FileKind) -> bool:
    """A broken file is of no kind here: it only matters when it is asked for by name."""
    try:
        return identify(read_header(path)) is kind
    except RylaError:
        return False
