"""Get the verified bytes of one catalogue file from the first of its sources that has them, or out of a zip of them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from .. import files
from ..errors import RylaError
from ..files import Advance
from . import catalogue as catalogues
from . import hub
from .catalogue import FILE_KINDS, Archive, Catalogue, HubSource, ModelEntry, Source
from .identify import FileKind, describe, examine
from .plan import Target

Phase = Callable[[ModelEntry, str, int | None], Advance]
Lock = Callable[[ModelEntry, str], AbstractContextManager[None]]

_BLOCK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_BLOB = re.compile(r"[0-9a-f]{40}")
# What no other source can cure.
_FINAL = frozenset({"disk_full", "not_writable", "cancelled"})
# Of several failures the one that the user can do most about, or should know first.
_MOST_USEFUL = ("gated_model", "invalid_token", "unsafe_archive", "hash_mismatch", "source_changed", "download_failed")


class Downloader:
    """Downloads into the part files of one target; sources are tried in the catalogue's order."""

    def __init__(self, target: Target, catalogue: Catalogue, phase: Phase, lock: Lock) -> None:
        self._target = target
        self._catalogue = catalogue
        self._phase = phase
        self._lock = lock

    def fetch(self, entry: ModelEntry) -> tuple[Path, str]:
        """A part file with exactly the entry's bytes, and its SHA-256 (empty where the catalogue has none).

        Raises:
            RylaError: when no source works, the most telling failure: ``gated_model``, ``invalid_token``,
                ``unsafe_archive``, ``hash_mismatch``, ``source_changed``, ``download_failed``, ``remote_missing`` ...;
                at once ``disk_full``, ``not_writable``, ``cancelled``.
        """
        failures: list[RylaError] = []
        for source in catalogues.sources_of(entry, self._catalogue):
            try:
                return self._from_source(entry, source)
            except RylaError as error:
                failures.append(_unless_final(error))
        if entry.archive is not None:
            try:
                return self._from_archive(entry, self._catalogue.archives[entry.archive])
            except RylaError as error:
                failures.append(_unless_final(error))
        raise _worst(entry, failures)

    def _from_source(self, entry: ModelEntry, source: Source) -> tuple[Path, str]:
        remote = hub.ask(source, self._phase(entry, f"asking {source}", None))
        _require_same(entry, remote)
        version = entry.sha256 or remote.etag or "unknown"
        part = self._only_part(entry, version)
        resumed = part.exists()
        size = entry.size or remote.size
        try:
            return self._fetched(entry, remote, part, size)
        except RylaError as error:
            if error.code != "hash_mismatch" or not resumed:
                raise
        return self._fetched(entry, remote, part, size)  # The old part was bad; this one starts from nothing.

    def _fetched(self, entry: ModelEntry, remote: hub.Remote, part: Path, size: int | None) -> tuple[Path, str]:
        advance = self._phase(entry, "downloading", size)
        advance(part.stat().st_size if part.exists() else 0)
        hub.fetch(remote, part, size, advance)
        expected = entry.sha256 or remote.etag or ""
        actual = self._digest(entry, part, expected)
        if actual != expected:
            part.unlink()
            raise RylaError(
                "hash_mismatch",
                f"{remote.source} sent other bytes than {entry.id}: hash {actual}, not {expected}.",
                hint=f"ryla models install {entry.id}",
                source=str(remote.source),
            )
        self._require_kind(entry, part, remote.source)
        return part, actual if _SHA256.fullmatch(actual) else ""

    def _digest(self, entry: ModelEntry, part: Path, expected: str) -> str:
        advance = self._phase(entry, "checking", part.stat().st_size)
        if _SHA256.fullmatch(expected):
            return files.sha256(part, advance)
        return _git_blob(part, advance) if _GIT_BLOB.fullmatch(expected) else expected

    def _require_kind(self, entry: ModelEntry, part: Path, source: Source) -> None:
        try:
            kind = examine(part, PurePosixPath(entry.filename).suffix)
        except RylaError:
            part.unlink()
            raise
        if entry.kind in FILE_KINDS and kind.value != entry.kind:
            what = describe(part, kind)
            part.unlink()
            raise RylaError("wrong_model_kind", f"{source} is {what}, not {FileKind(entry.kind).description}.")

    def _only_part(self, entry: ModelEntry, version: str) -> Path:
        """The part file of this version; those of other versions are deleted (the file has changed at its source)."""
        part = self._target.part(entry, version)
        for other in self._target.parts(entry):
            if other != part:
                other.unlink()
        return part

    def _from_archive(self, entry: ModelEntry, archive: Archive) -> tuple[Path, str]:
        with self._lock(entry, archive.id):
            path = self._archive(entry, archive)
            part = self._only_part(entry, entry.sha256 or "unknown")
            try:
                extract(path, entry, part, self._phase(entry, f"unpacking {archive.id}", entry.size))
            except RylaError:
                part.unlink(missing_ok=True)
                raise
        actual = self._digest(entry, part, entry.sha256 or "")
        if actual != entry.sha256:
            part.unlink()
            raise RylaError("hash_mismatch", f"{archive.id} holds other bytes than {entry.id}: SHA-256 {actual}.")
        return part, actual

    def _archive(self, entry: ModelEntry, archive: Archive) -> Path:
        """The verified zip, downloaded once for all of its files."""
        path = self._target.work / archive.id
        if path.exists():
            return path
        stand_in = ModelEntry(
            archive.id, archive.id, "config", "", archive.id, "", "", size=archive.size, sha256=archive.sha256
        )
        failures: list[RylaError] = []
        for source in catalogues.sources_of_archive(archive):
            try:
                part, _ = self._from_source(stand_in, source)
                return part.rename(path)
            except RylaError as error:
                failures.append(_unless_final(error))
        raise _worst(entry, failures)

    def discard_archives(self) -> None:
        """Delete the zips when all of their files are unpacked."""
        for entry in self._catalogue:
            path = self._target.work / (entry.archive or "")
            if entry.archive is not None and path.exists():
                with self._lock(entry, entry.archive):
                    path.unlink(missing_ok=True)


def _worst(entry: ModelEntry, failures: list[RylaError]) -> RylaError:
    if not failures:
        return RylaError("remote_missing", f"The catalogue has no source for {entry.id}.")
    rank = {code: number for number, code in enumerate(_MOST_USEFUL)}
    worst = min(failures, key=lambda error: rank.get(error.code, len(rank)))
    worst.details["tried"] = [f"{error.code}: {error.message}" for error in failures]
    return worst


def _unless_final(error: RylaError) -> RylaError:
    if error.code in _FINAL:
        raise error
    return error


def _require_same(entry: ModelEntry, remote: hub.Remote) -> None:
    """Compare what the server announces with the catalogue before a byte is fetched."""
    hashed = entry.sha256 is not None and remote.etag is not None and _SHA256.fullmatch(remote.etag)
    other_size = entry.size is not None and remote.size is not None and remote.size != entry.size
    if other_size or (hashed and remote.etag != entry.sha256):
        pinned = f" (revision {remote.source.revision})" if isinstance(remote.source, HubSource) else ""
        raise RylaError(
            "source_changed",
            f"{remote.source}{pinned} is no longer the file of the catalogue: it has {remote.size} bytes and hash "
            f"{remote.etag}, {entry.id} has {entry.size} bytes and hash {entry.sha256}.",
            source=str(remote.source),
        )


def _git_blob(path: Path, advance: Advance) -> str:
    """Git's object id of a file: what the hub gives as the ETag of a file that is not in LFS."""
    return files.digest("sha1", b"blob %d\0" % path.stat().st_size, path, advance)


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
