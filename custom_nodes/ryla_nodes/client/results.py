"""What a job gives: the pictures that its workflow declares, fetched, checked, and saved whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .. import files
from ..errors import RylaError
from .api import EngineApi
from .failures import Subject
from .protocol import HistoryEntry, State
from .transport import CallFailed

if TYPE_CHECKING:
    from ..workflows.workflow import BoundPrompt
    from .scores import Candidate

_FOLDER = "output"
_TRIES = 3
_PAUSE = 0.4
_QUALITY = 95
_PNG_END = b"IEND\xaeB`\x82"
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Format(str, Enum):
    """A picture format; the value is the usual suffix without its dot."""

    JPEG = "jpg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"


SUFFIXES = {
    ".jpg": Format.JPEG,
    ".jpeg": Format.JPEG,
    ".png": Format.PNG,
    ".webp": Format.WEBP,
}


@dataclass(frozen=True)
class Picture:
    """One picture of a declared output, as the engine's node wrote it.

    Attributes:
        node_id: the output node.
        filename, subfolder, folder: where the engine keeps it; ``folder`` is ``output``, ``temp`` or ``input``.
    """

    data: bytes = field(repr=False)
    format: Format
    node_id: str
    filename: str
    subfolder: str
    folder: str


@dataclass(frozen=True)
class Timings:
    """Seconds. ``execution`` is the engine's own figure (None when it gives none); the others are measured here.

    Attributes:
        queued: from the engine's acceptance to the first sign that it works on the job.
        total: everything, uploads and downloads included.
    """

    queued: float
    execution: float | None
    total: float


@dataclass(frozen=True)
class Result:
    """How a job ended, and what it made.

    Attributes:
        error: why it did not succeed; None when it did.
        workflow: the workflow's name.
        parameters: every effective parameter, the seed included.
        server, prompt_id: where it ran, and the engine's name for it ("" when it never got so far).
        pictures: the declared outputs, in the manifest's order.
        outputs: node id -> what each output node reported to the engine, pictures or not.
        cached: the engine did not run the output node again: the picture is of an earlier job.
        attempts: how often it was given to an engine; more than 1 after a retry.
        face_similarity: how alike the face is to that of the reference, -1..1; None where none is compared.
        candidates: the pictures from which the best was taken, in the order of their seeds; empty where one was made.
    """

    state: State
    error: RylaError | None
    workflow: str
    parameters: Mapping[str, Any]
    seed: int | None
    server: str
    prompt_id: str
    pictures: tuple[Picture, ...]
    outputs: Mapping[str, Mapping[str, Any]]
    timings: Timings
    cached: bool = False
    attempts: int = 1
    warnings: tuple[str, ...] = ()
    face_similarity: float | None = None
    candidates: tuple[Candidate, ...] = ()

    @classmethod
    def without_picture(
        cls,
        prompt: BoundPrompt,
        error: RylaError | None,
        *,
        state: State,
        server: str,
        prompt_id: str,
        timings: Timings,
        attempts: int = 1,
        candidates: tuple[Candidate, ...] = (),
    ) -> Result:
        """The end of a job of ``prompt`` that made nothing."""
        return cls(
            state=state,
            error=error,
            workflow=prompt.workflow,
            parameters=prompt.parameters,
            seed=prompt.seed,
            server=server,
            prompt_id=prompt_id,
            pictures=(),
            outputs={},
            timings=timings,
            attempts=attempts,
            candidates=candidates,
        )

    @property
    def told(self) -> dict[str, Any]:
        """What only a gateway tells of a job, by name; empty for an engine's."""
        return {}

    @property
    def ok(self) -> bool:
        return self.state is State.SUCCEEDED

    def required(self) -> Result:
        """Itself when it succeeded.

        Raises:
            RylaError: its error when it did not.
        """
        if self.error is not None:
            raise self.error
        return self

    def save(self, path: str | Path) -> list[Path]:
        """Write the pictures: the first to ``path``, others beside it as ``name-2.jpg`` ...; all or none of a file.

        Raises:
            RylaError: ``invalid_output_path``, ``output_folder_missing``, ``output_not_writable``, ``disk_full``.
        """
        return save(self.required().pictures, Path(path))


# --- from the engine --------------------------------------------------------------------------------------------------


async def fetch(engine: EngineApi, subject: Subject, entry: HistoryEntry) -> tuple[Picture, ...]:
    """Download every picture of the declared outputs. Files of other nodes and previews (``temp``) are no results.

    Raises:
        RylaError: ``missing_output``, ``bad_output``, ``transfer_failed``, ``server_gone``; ``output_gone`` when the
            engine has no such file: the result of an earlier, cached run was deleted.
    """
    wanted = [(output.node_id, item) for output in subject.outputs for item in _listed(entry, output.node_id)]
    for output in subject.outputs:
        if not any(node_id == output.node_id for node_id, _ in wanted):
            message = f"{subject.node(output.node_id)} saved no picture on {subject.server}."
            raise RylaError("missing_output", message, **subject.facts)
    return tuple(await asyncio.gather(*(_picture(engine, subject, entry, node_id, item) for node_id, item in wanted)))


def _listed(entry: HistoryEntry, node_id: str) -> list[Mapping[str, Any]]:
    """Whatever list a node puts its files in, an entry with a file name and the right folder is one."""
    return [
        item
        for listed in entry.outputs.get(node_id, {}).values()
        if isinstance(listed, list)
        for item in listed
        if isinstance(item, dict) and isinstance(item.get("filename"), str) and item.get("type", _FOLDER) == _FOLDER
    ]


async def _picture(
    engine: EngineApi, subject: Subject, entry: HistoryEntry, node_id: str, item: Mapping[str, Any]
) -> Picture:
    name, subfolder = item["filename"], str(item.get("subfolder") or "")
    where = f"{name} of {subject.node(node_id)} on {subject.server}"
    facts = {**subject.facts, "filename": name}
    data = await _download(engine, name, subfolder, where, facts)
    if data is None:
        message = f"{subject.server} no longer has {name}, its output of {subject.node(node_id)}."
        raise RylaError("output_gone", message, cached=node_id in entry.cached_nodes, **facts)
    kind = identify(data)
    if kind is None:
        head = data[:4].hex(" ") or "nothing"
        raise RylaError("bad_output", f"{where} is no picture: it begins with {head}.", **facts)
    if not complete(data, kind):
        raise RylaError("bad_output", f"{where} is cut off after {len(data)} bytes.", **facts)
    return Picture(data, kind, node_id, name, subfolder, _FOLDER)


async def _download(engine: EngineApi, name: str, subfolder: str, where: str, facts: dict[str, str]) -> bytes | None:
    """The file; None when the engine has no such file. An engine that is down is given time to come back."""
    began, failures = time.monotonic(), 0
    while True:
        try:
            data = await engine.view(name, subfolder, _FOLDER)
            if data is None:
                # A proxy says the same of everything when its engine is gone.
                await engine.read("/queue")
            return data
        except CallFailed as error:
            failures += not error.absent
            if failures == _TRIES:
                message = f"{where} could not be downloaded: {error}."
                raise RylaError("transfer_failed", message, **facts) from error
            if error.absent and time.monotonic() - began >= engine.limits.gone_after:
                message = f"{engine.server} went away after it had made {name}, and has not come back."
                raise RylaError("server_gone", message, **facts) from error
        await asyncio.sleep(_PAUSE)


def identify(data: bytes) -> Format | None:
    """The format by the magic bytes at the start; None when it is none of ours."""
    if data.startswith(b"\xff\xd8\xff"):
        return Format.JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Format.PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Format.WEBP
    return Format.GIF if data.startswith((b"GIF87a", b"GIF89a")) else None


def complete(data: bytes, kind: Format) -> bool:
    """Whether the file's end is there: a half-written file has the right start and no end."""
    if kind is Format.PNG:
        return _PNG_END in data[-64:]
    if kind is Format.JPEG:
        return b"\xff\xd9" in data[-64:]
    if kind is Format.WEBP:
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    return data.rstrip(b"\0").endswith(b";")


# --- to files ---------------------------------------------------------------------------------------------------------


def check_target(path: Path) -> None:
    """Refuse a path that cannot be written, before anything is run for it. Nothing is left behind.

    Raises:
        RylaError: ``invalid_output_path``, ``output_folder_missing``, ``output_not_writable``, ``disk_full``.
    """
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise RylaError("invalid_output_path", f"{path} has a suffix that is none of {known}.", path=str(path))
    if path.is_dir():
        raise RylaError("invalid_output_path", f"{path} is a folder; name a file in it.", path=str(path))
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        _refuse(path, error)


class Names(Protocol):
    """Which files pictures may become."""

    def take(self, path: Path) -> bool:
        """Whether no other picture is going to have this path; it is this one's from now on."""

    def may_replace(self, path: Path) -> bool:
        """Whether a file that is there already may be replaced."""


class AnyName:
    """Every path is free, and what is there is replaced."""

    def take(self, path: Path) -> bool:
        return True

    def may_replace(self, path: Path) -> bool:
        return True


def save(pictures: Sequence[Picture], path: Path, names: Names = AnyName()) -> list[Path]:
    """Write the first picture to ``path`` and others beside it as ``name-2.jpg``, ``name-3.jpg`` ...

    Numbers that ``names`` refuses, or whose file is there and must not be replaced, are passed over.

    A path without the suffix of a format gets the picture's own. One with another format's suffix gets a converted
    picture that looks the same (JPEG and WebP at quality 95; PNG loses nothing).

    Raises:
        RylaError: as ``check_target``, ``invalid_output_path`` for a picture that the format cannot show; no
            half-written file is left.
    """
    numbers = itertools.count(1)
    return [_save(picture, path, numbers, names) for picture in pictures]


def _save(picture: Picture, path: Path, numbers: Iterator[int], names: Names) -> Path:
    data = _encoded(picture, path)
    while True:
        target = _numbered(path, next(numbers), picture.format)
        if not names.take(target):
            continue
        try:
            write(target, data, exclusive=not names.may_replace(target))
        except FileExistsError:
            # A runner that was killed may have saved this picture without a note of it.
            if not _holds(target, data):
                continue
        return target


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def _numbered(path: Path, number: int, kind: Format) -> Path:
    known = path.suffix.lower() in SUFFIXES
    stem, suffix = (path.stem, path.suffix) if known else (path.name, f".{kind.value}")
    return path.with_name(f"{stem}{'' if number == 1 else f'-{number}'}{suffix}")


def converted(picture: Picture, path: Path) -> bool:
    """Whether ``save`` has to change the picture's format for this path."""
    return SUFFIXES.get(path.suffix.lower(), picture.format) is not picture.format


def _encoded(picture: Picture, path: Path) -> bytes:
    if not converted(picture, path):
        return picture.data
    from .. import pictures

    return pictures.convert(picture.data, SUFFIXES[path.suffix.lower()].name, _QUALITY)


def write(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Write a file so that at every moment it is absent, old or whole.

    Raises:
        FileExistsError: with ``exclusive`` when there is a file.
        RylaError: ``invalid_output_path``, ``output_folder_missing``, ``output_not_writable``, ``disk_full``.
    """
    try:
        files.write_whole(path, data, exclusive=exclusive)
    except OSError as error:
        if exclusive and isinstance(error, FileExistsError):
            raise
        _refuse(path, error)


def _refuse(path: Path, error: OSError) -> NoReturn:
    facts = {"path": str(path), "reason": error.strerror or str(error)}
    folder = path.parent
    if error.errno in files.FULL:
        hint = "Free some space, or give another path with -o."
        message = f"{path} does not fit on its disk ({facts['reason']})."
        raise RylaError("disk_full", message, hint=hint, **facts) from error
    if error.errno in _ABSENT and not folder.is_dir():
        hint = f"mkdir -p {folder}"
        raise RylaError("output_folder_missing", f"The folder {folder} does not exist.", hint=hint, **facts) from error
    if error.errno in (errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL):
        raise RylaError("invalid_output_path", f"{path} cannot be a file: {facts['reason']}.", **facts) from error
    raise RylaError("output_not_writable", f"{path} cannot be written: {facts['reason']}.", **facts) from error
