"""Take one known file out of a zip from the internet."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from ..errors import RylaError
from ..files import Advance
from .catalogue import ModelEntry

_BLOCK = 1 << 20


def extract(archive: Path, entry: ModelEntry, target: Path, advance: Advance) -> None:
    """Write the member with the entry's base name to ``target``: never to a path that the archive names.

    Raises:
        RylaError: ``unsafe_archive`` when a member would leave the folder or unpacks to more than the entry's size,
            or when the archive is damaged or lacks the file.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            _refuse_escapes(archive, opened)
            _copy(opened, _member(archive, opened, entry), entry, target, advance)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise RylaError("unsafe_archive", f"{archive.name} is damaged: {error}.", path=archive) from error


def _refuse_escapes(path: Path, opened: zipfile.ZipFile) -> None:
    for name in opened.namelist():
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name:
            raise RylaError(
                "unsafe_archive", f"{path.name} is refused: its member {name!r} leaves the folder.", path=path
            )


def _member(path: Path, opened: zipfile.ZipFile, entry: ModelEntry) -> zipfile.ZipInfo:
    wanted = PurePosixPath(entry.filename).name
    members = [info for info in opened.infolist() if PurePosixPath(info.filename).name == wanted]
    if not members:
        raise RylaError("unsafe_archive", f"{path.name} has no {wanted}.", path=path)
    if members[0].file_size != entry.size:
        raise RylaError(
            "unsafe_archive",
            f"{path.name} is refused: {wanted} would unpack to {members[0].file_size:,} bytes, not {entry.size:,}.",
            path=path,
        )
    return members[0]


def _copy(opened: zipfile.ZipFile, member: zipfile.ZipInfo, entry: ModelEntry, target: Path, advance: Advance) -> None:
    # The sizes in a zip's index are claims: count what really comes out.
    left = entry.size or 0
    with opened.open(member) as reader, target.open("wb") as writer:
        while block := reader.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise RylaError("unsafe_archive", f"{member.filename} unpacks to more than it claims.", path=target)
            writer.write(block)
            advance(len(block))
