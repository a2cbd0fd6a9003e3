"""Putting LoRA files into a folder and taking them out again, all or nothing."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import files
from ..errors import RylaError
from ..models import shipped
from ..models.folders import standalone
from ..models.headers import read_header
from ..settings import Settings
from . import ids, sidecar, store, weights
from .inspect import LoraInfo, inspect
from .store import LoraFile, LoraStore

_LONGEST_ID = 60


def roots(settings: Settings) -> tuple[Path, ...]:
    """The LoRA folders of this machine: the volume's, ComfyUI's, the embedded engine's own, the package's."""
    own = settings.home / "models" / "loras"
    return tuple(dict.fromkeys((*standalone(settings).get("loras"), own, *shipped.folders().get("loras"))))


def of_machine(settings: Settings) -> LoraStore:
    """The LoRAs of this machine; links may lead to any of its model folders, and to those of ``RYLA_LORA_ROOTS``."""
    return store.shared(roots(settings), (*settings.lora_roots, *standalone(settings).every()))


def describe(file: LoraFile) -> dict[str, Any]:
    """One row of a list of LoRAs: id, path, size, and what the header says, or ``error`` and ``code``."""
    row: dict[str, Any] = {"id": file.id, "path": str(file.path), "size": file.size}
    try:
        ids.parse(file.id)
        info = inspect(file.path)
    except RylaError as error:
        line = f"{error.message} Rename the file." if error.code == "invalid_lora_id" else error.message
        return row | {"error": line, "code": error.code}
    return row | {name: getattr(info, name) for name in ("family", "format", "rank", "trigger_word", "base_model")}


def add(source: Path, folder: Path, *, lora_id: str = "", trigger: str = "", force: bool = False) -> LoraFile:
    """Check a LoRA file and copy it into ``folder`` as ``<id>.safetensors``, with a sidecar.

    Its weights are checked to be finite where torch is installed; else an engine does it when it applies them.

    Args:
        lora_id: the file's own name when empty.
        trigger: the trigger word; that of the source's sidecar or metadata when empty.
        force: replace the file that answers to the id in ``folder``, if there is one.

    Raises:
        RylaError: what ``inspect`` and ``ids.parse`` raise; ``lora_not_finite``, ``lora_exists``, ``disk_full``,
            ``not_writable``.
    """
    if not source.is_file():
        raise RylaError("unreadable_file", f"There is no file {source}.", hint="Give the path of a .safetensors file.")
    info = inspect(source)
    wanted = ids.parse(lora_id or _own_id(source))
    target = _target(wanted, folder, force)
    if importlib.util.find_spec("torch"):
        weights.load(source)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = files.free_bytes(target.parent)
        if free is not None and free < info.size:
            raise _disk_full(target, info.size)
        _publish(source, target, _sidecar_text(source, info, trigger), force)
    return LoraStore([folder]).find(target.relative_to(folder).as_posix())


def remove(lora_store: LoraStore, lora_id: str) -> list[Path]:
    """Delete the file of an id, its sidecar, and a ``character-<id>`` folder that it leaves empty.

    Raises:
        RylaError: what ``LoraStore.find`` raises; ``ambiguous_lora`` when several files answer to the id;
            ``not_writable``.
    """
    file = lora_store.find(lora_id)
    if file.also and not ids.parse(lora_id).exact:
        answers = [str(path) for path in (file.path, *file.also)]
        raise RylaError(
            "ambiguous_lora",
            f"{len(answers)} files answer to {lora_id!r}: {', '.join(answers)}.",
            hint=f"Name one of them: ryla loras remove {file.name}",
            files=answers,
        )
    if shipped.holds(file.path):
        raise RylaError(
            "not_writable",
            f"{file.path} ships with the package and stays there.",
            hint=f"A file of yours goes before it: ryla loras add FILE --id {file.id}",
            path=file.path,
        )
    removed = [file.path, *(path for path in sidecar.names(file.path) if path.is_file())]
    with _explained(file.path):
        for path in removed:
            path.unlink()
        if (
            file.path.name == ids.FOLDER_WEIGHTS
            and file.path.parent != file.root
            and not any(file.path.parent.iterdir())
        ):
            file.path.parent.rmdir()
    return removed


def _own_id(source: Path) -> str:
    """The name of a file as an id, when a person could write it in a command.

    Raises:
        RylaError: ``invalid_lora_id`` with an id to give instead.
    """
    if ids.normal(source.name) == ids.FOLDER_WEIGHTS:
        raise RylaError("invalid_lora_id", f"{source.name} says nothing about whose LoRA it is.", hint="Give --id ID.")
    name = ids.stem_of(source.name)
    try:
        ids.parse(name)
        if not name.startswith("-"):
            return name
        why = f"{name!r} would be read as an option of the command."
    except RylaError as error:
        why = error.message
    raise RylaError("invalid_lora_id", why, hint=f"Give it a name of its own: --id {_plain_id(name)}")


def _plain_id(name: str) -> str:
    """An id of letters, digits, dots and dashes that reminds of ``name``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._")[:_LONGEST_ID]
    try:
        return ids.parse(plain).text
    except RylaError:
        return "ID"


def _target(wanted: ids.LoraId, folder: Path, force: bool) -> Path:
    """``<id>.safetensors``, or the file that answers to the id already, so that an id keeps one file."""
    target = folder / f"{wanted.folder}{wanted.name}{ids.SUFFIX}"
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise RylaError("lora_outside_folders", f"{target.parent} is a link that leads out of {folder}.", path=target)
    try:
        taken = LoraStore([folder]).find(wanted.text)
    except RylaError as error:
        if error.code == "lora_outside_folders" and not force:
            raise
        return target
    if not force:
        raise _exists(wanted.text, taken.path)
    return taken.path


def _sidecar_text(source: Path, info: LoraInfo, trigger: str) -> str:
    """The source's sidecar, if it has one, with the trigger word and the base model filled in."""
    beside = sidecar.own(source)
    fields = json.loads(beside.path.read_text(encoding="utf-8-sig")) if beside else {}
    known = {"trigger_word": trigger.strip() or info.trigger_word, "base_model": info.base_model}
    said = {name: value for name, value in known.items() if value}
    return sidecar.to_json(fields | said | {"source": _sayable(source.name)})


def _sayable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 become question marks."""
    return name.encode(errors="replace").decode()


def _publish(source: Path, target: Path, beside: str, force: bool) -> None:
    try:
        with files.replacing(target, exclusive=not force) as copy:
            shutil.copyfile(source, copy)
            read_header(copy)  # The source may have been cut or replaced meanwhile.
            files.write_whole(sidecar.path_of(target), beside.encode())
    except FileExistsError as error:
        raise _exists(target.stem, target) from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in files.FULL:
            raise _disk_full(path) from error
        message = f"{error.filename or path} cannot be written: {error.strerror or error}."
        raise RylaError("not_writable", message, path=path) from error


def _disk_full(path: Path, size: int = 0) -> RylaError:
    needed = f" ({size:,} bytes are needed)" if size else ""
    return RylaError("disk_full", f"The disk of {path.parent} is full{needed}.", path=path)


def _exists(lora_id: str, path: Path) -> RylaError:
    return RylaError("lora_exists", f"A LoRA {lora_id!r} is already there: {path}.", path=path)
