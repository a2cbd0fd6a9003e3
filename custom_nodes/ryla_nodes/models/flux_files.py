"""Which files make up FLUX.1 Dev on this machine: told by their headers, named files first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..errors import RylaError
from . import catalogue, missing, resolve
from .folders import ModelFolders
from .headers import MADE_UP, read_header
from .identify import FileKind, describe, identify, shard_of

AUTO = "auto"
TEXT_ENCODERS = (AUTO, "t5xxl_fp16", "t5xxl_fp8_e4m3fn_scaled", "t5xxl_fp8_e4m3fn")

_INSTALL = "ryla models install flux-dev"


@dataclass(frozen=True)
class FluxFiles:
    """The files of one FLUX.1 Dev: the split set, or an all-in-one checkpoint (then the rest is None)."""

    transformer: Path
    clip_l: Path | None = None
    t5xxl: Path | None = None
    vae: Path | None = None


def choices(folders: ModelFolders) -> list[str]:
    """What the loader offers: ``auto``, then every file that could be a transformer or an all-in-one (no parts)."""
    names = (*folders.list("diffusion_models"), *folders.list("checkpoints"))
    return list(dict.fromkeys((AUTO, *(name for name in names if shard_of(Path(name)) is None))))


def locate(folders: ModelFolders, model: str, text_encoder: str, stand_in: FluxFiles | None = None) -> FluxFiles:
    """The files of FLUX.1 Dev: those of ``model``, or with ``auto`` whichever are there, split files first.

    Files of catalogue names come first; under other names a file is taken when it is the only one of its kind.
    ``stand_in`` (the engine's own small weights) is taken when it is named, or when no transformer is there.

    Raises:
        RylaError: ``missing_model`` naming everything that is missing at once, ``wrong_model_kind``,
            ``ambiguous_model``, ``invalid_parameter``, and those of ``read_header``.
    """
    search = _Search(folders, stand_in)
    if model != AUTO:
        return search.named(model, text_encoder)
    return search.any(text_encoder)


class _Search:
    def __init__(self, folders: ModelFolders, stand_in: FluxFiles | None) -> None:
        self.folders = folders
        self.stand_in = stand_in
        parts = (stand_in.transformer, stand_in.clip_l, stand_in.t5xxl, stand_in.vae) if stand_in else ()
        # By name: a copy of the engine's own weights among real ones is not taken for those.
        self.ignored = frozenset(path.name for path in parts if path is not None)
        self.made_up = False

    def named(self, model: str, text_encoder: str) -> FluxFiles:
        path = self.folders.find("diffusion_models", model) or self.folders.find("checkpoints", model)
        if path is None:
            absent = resolve.no_such_file(model, self.folders, "diffusion_models", "checkpoints")
            raise _incomplete([absent, *self._companions(text_encoder)[1]], by_auto=False)
        if self.stand_in and path.name == self.stand_in.transformer.name:
            return self.stand_in
        header = read_header(path)
        self.made_up = MADE_UP in header.metadata
        return self._complete(path, identify(header), text_encoder)

    def any(self, text_encoder: str) -> FluxFiles:
        try:
            path, kind = self._transformer()
        except RylaError as error:
            if error.code != "missing_model":
                raise
            if self.stand_in is not None and text_encoder == AUTO:
                return self.stand_in
            lacking = [error, *self._companions(text_encoder)[1]]
            raise _incomplete(lacking, by_auto=text_encoder == AUTO) from error
        try:
            return self._complete(path, kind, text_encoder)
        except RylaError as error:
            whole = self._only("checkpoints", FileKind.FLUX_ALL_IN_ONE)
            if error.code != "missing_model" or whole is None or text_encoder != AUTO:
                raise
            return FluxFiles(whole)

    def _transformer(self) -> tuple[Path, FileKind]:
        try:
            found = resolve.locate("flux1-dev", self.folders)
            return found.path, found.kind
        except RylaError as error:
            if error.code != "missing_model":
                raise
            for folder, kind in (
                ("diffusion_models", FileKind.FLUX_TRANSFORMER),
                ("checkpoints", FileKind.FLUX_ALL_IN_ONE),
            ):
                path = self._only(folder, kind)
                if path is not None:
                    return path, kind
            raise

    def _complete(self, path: Path, kind: FileKind, text_encoder: str) -> FluxFiles:
        if kind is FileKind.FLUX_ALL_IN_ONE:
            if text_encoder != AUTO:
                line = f"{path} is an all-in-one that brings its own text encoders; text_encoder is {text_encoder!r}."
                raise RylaError("invalid_parameter", line, hint="Set text_encoder to auto.")
            return FluxFiles(path)
        if kind is not FileKind.FLUX_TRANSFORMER:
            line = f"{path} is {describe(path, kind)}; this loader takes FLUX.1 Dev."
            raise RylaError("wrong_model_kind", line, hint=_INSTALL, path=path, kind=kind.value)
        found, lacking = self._companions(text_encoder)
        if lacking:
            raise _incomplete(lacking, by_auto=text_encoder == AUTO)
        return FluxFiles(path, *found)

    def _companions(self, text_encoder: str) -> tuple[list[Path], list[RylaError]]:
        """CLIP-L, T5-XXL and the VAE, those that are there, and what says that one is not."""
        return missing.search(
            (
                lambda: self._part("clip_l", FileKind.CLIP_L),
                lambda: self._t5xxl(text_encoder),
                lambda: self._part("ae", FileKind.VAE_FLUX),
            )
        )

    def _t5xxl(self, text_encoder: str) -> Path:
        if text_encoder == AUTO:
            return self._part("t5xxl_fp16", FileKind.T5XXL)
        entry = catalogue.load().get(text_encoder)
        return resolve.resolve(replace(entry, alternatives=()), self.folders)

    def _part(self, model_id: str, kind: FileKind) -> Path:
        try:
            return resolve.resolve(model_id, self.folders)
        except RylaError as error:
            path = self._only(catalogue.load().get(model_id).folder, kind) if error.code == "missing_model" else None
            if path is None:
                raise
            return path

    def _only(self, folder: str, kind: FileKind) -> Path | None:
        """The one file of ``kind`` in ``folder``, whatever its name; None when there is none.

        Made-up weights go with a transformer of made-up weights, and with no other.
        """
        hits = [path for path in self._paths(folder) if _look(path) == (kind, self.made_up)]
        if len(hits) > 1:
            names = ", ".join(str(path) for path in hits)
            line = f"{len(hits)} files are {kind.description}: {names}."
            raise RylaError("ambiguous_model", line, hint="Name one in `model`, or keep only one of them.")
        return hits[0] if hits else None

    def _paths(self, folder: str) -> Iterator[Path]:
        for name in self.folders.list(folder):
            path = self.folders.find(folder, name)
            if path is not None and path.name not in self.ignored:
                yield path


def _incomplete(lacking: list[RylaError], *, by_auto: bool) -> RylaError:
    """All that is missing in one error; what ``auto`` was to find comes with the workflow of that name."""
    error = missing.together(lacking)
    models = [each.details["model"] for each in lacking]
    hint = _INSTALL if by_auto else error.hint
    return RylaError("missing_model", f"FLUX.1 Dev is incomplete. {error.message}", hint=hint, models=models)


def _look(path: Path) -> tuple[FileKind, bool]:
    """The kind of a file, and whether its weights are made up."""
    status = path.stat()
    return _look_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _look_once(path: Path, _mtime: int, _size: int) -> tuple[FileKind, bool]:
    """A broken file is of no kind here: it only matters when it is the one that was asked for by name."""
    try:
        header = read_header(path)
    except RylaError:
        return FileKind.UNKNOWN, False
    return identify(header), MADE_UP in header.metadata
